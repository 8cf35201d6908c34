//! Settings under which a training stays within a limit on memory, where those that were asked for do not.

use crate::compile::{Precision, Residency, TrainOptions};
use crate::error::{Error, Result};

/// Settings, and the memory that training takes with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Where weights are.
    pub weights: Residency,
    /// What is stored in half precision.
    pub precision: Precision,
    /// Whether the moments of Adam are stored in a byte each.
    pub use_8bit_adam: bool,
    /// Bytes.
    pub bytes: u64,
}

/// What takes less memory, if it is not done yet: the change that keeps the result to the bit first.
const CHANGES: [fn(&mut TrainOptions) -> bool; 3] = [
    |o| std::mem::replace(&mut o.weights, Residency::Streamed) != Residency::Streamed,
    |o| o.precision == Precision::Single && std::mem::replace(&mut o.precision, Precision::Bf16) == Precision::Single,
    |o| !std::mem::replace(&mut o.use_8bit_adam, true),
];

/// The settings nearest to those of `asked` that stay within `limit`: the fewest changes, in every way that does. If none does, all
/// changes; nothing if there are none to make. `compile` says what training takes.
pub(crate) fn nearest(
    asked: &TrainOptions,
    limit: u64,
    compile: impl Fn(&TrainOptions) -> Result<u64>,
) -> Result<Vec<Fit>> {
    let possible: Vec<_> = CHANGES.into_iter().filter(|change| change(&mut asked.clone())).collect();
    let measure = |some: usize| -> Result<Fit> {
        let mut options = asked.clone();
        for (_, change) in possible.iter().enumerate().filter(|(i, _)| some >> i & 1 == 1) {
            change(&mut options);
        }
        let bytes = match compile(&options) {
            Err(Error::Memory { least, .. }) => least,
            bytes => bytes?,
        };
        let TrainOptions { weights, precision, use_8bit_adam, .. } = options;
        Ok(Fit { weights, precision, use_8bit_adam, bytes })
    };
    let sets = 1_usize << possible.len();
    if sets == 1 {
        return Ok(Vec::new());
    }
    let all = measure(sets - 1)?;
    if all.bytes > limit {
        return Ok(vec![all]);
    }
    for changes in 1..possible.len() as u32 {
        let fits = (1..sets).filter(|some| some.count_ones() == changes).map(measure);
        let fits: Vec<Fit> = fits.filter(|fit| !fit.as_ref().is_ok_and(|f| f.bytes > limit)).collect::<Result<_>>()?;
        if !fits.is_empty() {
            return Ok(fits);
        }
    }
    Ok(vec![all])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::Binding;
    use crate::select::{self, Amount};

    fn asked(weights: Residency) -> TrainOptions {
        let options = TrainOptions::new(Binding::default(), select::Options::default(), Amount::Count(1));
        TrainOptions { weights, ..options }
    }

    /// What a training takes that is made of weights, values kept and moments.
    fn taken(options: &TrainOptions) -> u64 {
        let weights = if options.weights == Residency::Streamed { 10 } else { 100 };
        let kept = if options.precision == Precision::Single { 80 } else { 40 };
        weights + kept + if options.use_8bit_adam { 2 } else { 8 }
    }

    fn found(asked: &TrainOptions, limit: u64) -> Vec<(Residency, Precision, bool, u64)> {
        let compile = |options: &TrainOptions| match taken(options) {
            least if least > limit => Err(Error::Memory { limit, least, others: Vec::new() }),
            bytes => Ok(bytes),
        };
        let fits = nearest(asked, limit, compile).unwrap_or_default();
        fits.into_iter().map(|f| (f.weights, f.precision, f.use_8bit_adam, f.bytes)).collect()
    }

    #[test]
    fn the_fewest_changes_that_fit_are_found_and_all_where_none_do() {
        use Precision::{Bf16, Single};
        use Residency::{Resident, Streamed};
        let plain = asked(Resident);
        assert_eq!(
            found(&plain, 187),
            [(Streamed, Single, false, 98), (Resident, Bf16, false, 148), (Resident, Single, true, 182)]
        );
        assert_eq!(found(&plain, 100), [(Streamed, Single, false, 98)]);
        assert_eq!(found(&plain, 95), [(Streamed, Bf16, false, 58), (Streamed, Single, true, 92)]);
        assert_eq!(found(&plain, 52), [(Streamed, Bf16, true, 52)]);
        assert_eq!(found(&plain, 51), [(Streamed, Bf16, true, 52)]);
        assert_eq!(found(&asked(Streamed), 95), [(Streamed, Bf16, false, 58), (Streamed, Single, true, 92)]);
        let least = TrainOptions { precision: Precision::Fp16, use_8bit_adam: true, ..asked(Streamed) };
        assert_eq!(found(&least, 51), []);
    }
}
