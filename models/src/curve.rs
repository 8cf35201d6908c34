//! A loss curve as an SVG.

use std::fmt::Display;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Error;
use crate::axis::Axis;

/// The size of the drawing in pixels.
pub const SIZE: (u32, u32) = (800, 450);

const RAW: RGBColor = RGBColor(158, 196, 228);
const MEAN: RGBColor = RGBColor(24, 90, 157);
const HELD_OUT: RGBColor = RGBColor(217, 95, 2);
const GRID: RGBColor = RGBColor(228, 228, 228);
const INK: RGBColor = RGBColor(60, 60, 60);

/// Losses over the steps of a training.
#[derive(Clone, Copy, Debug)]
pub struct Curve<'a> {
    /// Drawn above the curve; nothing when empty.
    pub title: &'a str,
    /// Step and loss, by rising step. Losses that are not finite are left out.
    pub loss: &'a [(u64, f64)],
    /// How many losses the moving average is over; it is not drawn below 2.
    pub window: usize,
    /// Step and loss on held-out data, marked; may be empty.
    pub held_out: &'a [(u64, f64)],
}

type Points = Vec<(f64, f64)>;

impl Curve<'_> {
    /// Draws the losses thin and their moving average thick. The loss axis is logarithmic when the losses are
    /// above 0 and span more than a factor of 20. It is an error when no loss is finite.
    pub fn svg(&self) -> Result<String, Error> {
        let (raw, held_out) = (finite(self.loss), finite(self.held_out));
        if raw.is_empty() {
            return Err(Error::Invalid("a curve needs a finite loss".into()));
        }
        let all = || raw.iter().chain(&held_out);
        let drawing = Drawing {
            title: self.title,
            steps: Axis::whole(span(all().map(|p| p.0))),
            losses: Axis::values(span(all().map(|p| p.1))),
            mean: moving_average(&raw, self.window),
            raw: thinned(&raw),
            held_out,
        };
        drawing.svg()
    }
}

struct Drawing<'a> {
    title: &'a str,
    steps: Axis,
    losses: Axis,
    raw: Points,
    mean: Points,
    held_out: Points,
}

impl Drawing<'_> {
    fn svg(&self) -> Result<String, Error> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        self.draw(&area).map_err(failed)?;
        area.present().map_err(failed)?;
        drop(area);
        Ok(svg)
    }

    fn draw<'b, B: DrawingBackend + 'b>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let text = |size: i32| ("sans-serif", size).into_font().color(&INK);
        let mut builder = ChartBuilder::on(area);
        builder.margin(16).margin_right(28).x_label_area_size(46).y_label_area_size(72);
        if !self.title.is_empty() {
            builder.caption(self.title, text(22));
        }
        let mut chart = builder.build_cartesian_2d(self.steps.clone(), self.losses.clone())?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("step").y_desc("loss").bold_line_style(GRID).light_line_style(TRANSPARENT).axis_style(INK);
        mesh.label_style(text(15)).axis_desc_style(text(17)).draw()?;
        for (name, points, style) in [
            ("loss", &self.raw, RAW.stroke_width(1)),
            ("moving average", &self.mean, MEAN.stroke_width(3)),
            ("held out", &self.held_out, HELD_OUT.stroke_width(1)),
        ] {
            if !points.is_empty() {
                let line = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
                line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
            }
        }
        chart.draw_series(self.held_out.iter().map(|&point| Circle::new(point, 4, HELD_OUT.filled())))?;
        let mut legend = chart.configure_series_labels();
        legend.position(SeriesLabelPosition::UpperRight).background_style(WHITE.mix(0.85)).border_style(GRID);
        legend.margin(12).label_font(text(15)).draw()
    }
}

pub(crate) fn failed(error: impl Display) -> Error {
    Error::Curve(error.to_string())
}

pub(crate) fn finite(points: &[(u64, f64)]) -> Points {
    points.iter().filter(|p| p.1.is_finite()).map(|&(step, loss)| (step as f64, loss)).collect()
}

pub(crate) fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// The mean of each point and those before it, `window` in all (fewer at the beginning).
fn moving_average(points: &[(f64, f64)], window: usize) -> Points {
    if window < 2 {
        return Points::new();
    }
    let mean = |part: &[(f64, f64)]| part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64;
    let average = points.iter().enumerate().map(|(i, p)| (p.0, mean(&points[(i + 1).saturating_sub(window)..=i])));
    thinned(&average.collect::<Points>())
}

/// At most two points for each column of the drawing: the lowest and the highest, in their order.
pub(crate) fn thinned(points: &[(f64, f64)]) -> Points {
    let size = points.len().div_ceil(SIZE.0 as usize);
    if size <= 2 {
        return points.to_vec();
    }
    let extremes = points.chunks(size).flat_map(|part| {
        let by_loss = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut ends = Vec::from_iter(part.iter().min_by(by_loss).into_iter().chain(part.iter().max_by(by_loss)));
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    });
    extremes.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A curve that falls from `from` to about `to`, with noise.
    fn falling(from: f64, to: f64, steps: u64) -> Vec<(u64, f64)> {
        let noise = |step: u64| 1.0 + 0.25 * ((step as f64 * 12.9898).sin() * 43_758.545_3).fract();
        (0..steps).map(|s| (s, (to + (from - to) * (-6.0 * s as f64 / steps as f64).exp()) * noise(s))).collect()
    }

    /// How many points the line of that colour has.
    fn points(svg: &str, colour: RGBColor) -> Option<usize> {
        let colour = format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2);
        let mut lines = svg.split("<polyline").skip(1).filter(|line| line.contains(&colour));
        let line = lines.next()?;
        Some(line.split("points=\"").nth(1)?.split('"').next()?.split_whitespace().count())
    }

    #[test]
    fn all_series_are_drawn() {
        let loss = falling(0.5, 0.3, 500);
        let curve = Curve { title: "a < b", loss: &loss, window: 20, held_out: &[(0, 0.52), (499, 0.31)] };
        let svg = curve.svg().unwrap();
        assert!(svg.starts_with("<svg width=\"800\" height=\"450\"") && svg.trim_end().ends_with("</svg>"));
        assert_eq!([points(&svg, RAW), points(&svg, MEAN), points(&svg, HELD_OUT)], [Some(500), Some(500), Some(2)]);
        for text in ["a &lt; b", "step", "loss", "moving average", "held out"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn a_wide_span_is_logarithmic() {
        let loss = falling(1.0, 0.02, 6000);
        let svg = Curve { title: "log", loss: &loss, window: 100, held_out: &[] }.svg().unwrap();
        assert!(svg.contains("\n0.1\n") && !svg.contains("held out"));
        assert!(points(&svg, RAW).unwrap() <= 1600, "long curves are thinned");
    }

    #[test]
    fn odd_curves() {
        let draw = |loss: &[(u64, f64)]| Curve { title: "", loss, window: 0, held_out: &[] }.svg();
        for loss in [&[(7, 0.5)][..], &[(0, 0.0), (1, 0.0)], &[(0, -1.0), (9, 1e9)], &[(0, 1e-300), (1, 1e300)]] {
            assert!(draw(loss).unwrap().contains("polyline"), "{loss:?}");
        }
        let svg = draw(&[(0, 0.5), (1, f64::NAN), (2, f64::INFINITY), (3, 0.4)]).unwrap();
        assert_eq!(points(&svg, RAW), Some(2));
        assert!(matches!(draw(&[(0, f64::NAN)]), Err(Error::Invalid(_))));
        assert!(matches!(draw(&[]), Err(Error::Invalid(_))));
    }

    #[test]
    fn moving_averages_are_over_the_last_points() {
        let points = [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 10.0)];
        assert_eq!(moving_average(&points, 2), [(0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (3.0, 7.5)]);
        assert_eq!(moving_average(&points, 1), []);
    }

    #[test]
    fn thinned_curves_keep_their_extremes() {
        let mut points: Points = (0..8000).map(|i| (f64::from(i), 1.0)).collect();
        (points[4003].1, points[4007].1) = (9.0, -9.0);
        let found = thinned(&points);
        assert_eq!(found.len(), 1600);
        let at = found.iter().position(|p| *p == (4003.0, 9.0)).unwrap();
        assert_eq!(found[at + 1], (4007.0, -9.0));
    }
}
