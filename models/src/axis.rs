//! An axis of a chart with round numbers, plain or logarithmic.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// An axis as the plotting library takes it: where a value lies, which values have a mark, and their text.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    logarithmic: bool,
    /// Both ends: values, or their decimal logarithms.
    ends: (f64, f64),
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis of whole numbers that begins at `first` and ends at `last`, or one later where both are the same.
    pub(crate) fn whole((first, last): (f64, f64)) -> Axis {
        let ends = (first, last.max(first + 1.0));
        Axis { logarithmic: false, ends, ticks: ticks(ends, 1.0) }
    }

    /// An axis of the values from `low` to `high`, with a margin; logarithmic when they are above 0 and span more
    /// than a factor of 20.
    pub(crate) fn values((low, high): (f64, f64)) -> Axis {
        let logarithmic = low > 0.0 && high / low > 20.0;
        let (low, high) = if logarithmic { (low.log10(), high.log10()) } else { (low, high) };
        let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
        let ends = (low - margin, high + margin);
        let ticks = if logarithmic { logarithmic_ticks(ends) } else { ticks(ends, 0.0) };
        Axis { logarithmic, ends, ticks }
    }

    fn value(&self, place: f64) -> f64 {
        if self.logarithmic { 10f64.powf(place) } else { place }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let place = if self.logarithmic { value.log10() } else { *value };
        let share = (place - self.ends.0) / (self.ends.1 - self.ends.0);
        (f64::from(first) + share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.value(self.ends.0)..self.value(self.ends.1)
    }
}

impl ValueFormatter<f64> for Axis {
    /// The value without the digits that rounding adds.
    fn format(value: &f64) -> String {
        let rounded = format!("{value:.8e}").parse().unwrap_or(*value);
        let plain = rounded == 0.0 || (1e-4..1e7).contains(&rounded.abs());
        if plain { rounded.to_string() } else { format!("{rounded:e}") }
    }
}

/// Round numbers from `low` to `high`, about eight, and at least `least` apart.
fn ticks((low, high): (f64, f64), least: f64) -> Vec<f64> {
    let wanted = ((high - low) / 8.0).max(least);
    let power = 10f64.powf(wanted.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= wanted * 0.999).unwrap_or(10.0);
    let step = factor * power;
    let first = (low / step).ceil();
    (0..12).map(|i| (first + f64::from(i)) * step).filter(|tick| *tick <= high).collect()
}

/// Powers of ten whose exponents are from `low` to `high`, with their doubles and fives on up to three decades.
fn logarithmic_ticks((low, high): (f64, f64)) -> Vec<f64> {
    if high - low > 3.0 {
        return ticks((low, high), 1.0).into_iter().map(|exponent| 10f64.powf(exponent)).collect();
    }
    let decades = (low.floor() as i32..=high.floor() as i32).map(|exponent| 10f64.powi(exponent));
    let all = decades.flat_map(|decade| [decade, 2.0 * decade, 5.0 * decade]);
    all.filter(|tick| (low..=high).contains(&tick.log10())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(Axis::format).collect()
    }

    #[test]
    fn marks_are_round_numbers() {
        assert_eq!(labels(&Axis::values((0.1, 0.4))), ["0.1", "0.15", "0.2", "0.25", "0.3", "0.35", "0.4"]);
        assert_eq!(labels(&Axis::values((-1.0, 1.0))), ["-1", "-0.5", "0", "0.5", "1"]);
        assert_eq!(labels(&Axis::values((0.02, 1.0))), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(labels(&Axis::values((1e-6, 1.0))), ["1e-6", "1e-5", "0.0001", "0.001", "0.01", "0.1", "1"]);
        assert_eq!(labels(&Axis::whole((0.0, 5999.0))), ["0", "1000", "2000", "3000", "4000", "5000"]);
        assert_eq!(labels(&Axis::whole((7.0, 7.0))), ["7", "8"]);
    }

    #[test]
    fn values_are_placed_between_the_ends() {
        let (linear, logarithmic) = (Axis::values((0.0, 10.0)), Axis::values((0.01, 1.0)));
        assert_eq!([0.0, 5.0, 10.0].map(|v| linear.map(&v, (0, 110))), [5, 55, 105]);
        assert_eq!([0.01, 0.1, 1.0].map(|v| logarithmic.map(&v, (110, 0))), [105, 55, 5]);
        assert_eq!(linear.range(), -0.5..10.5);
    }
}
