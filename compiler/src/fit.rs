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

/// What takes less memory with most models; false if it is done already. The change that keeps the result to the bit is first.
type Change = fn(&mut TrainOptions) -> bool;
const CHANGES: [Change; 3] = [
    |o| std::mem::replace(&mut o.weights, Residency::Streamed) == Residency::Resident,
    |o| {
        let single = o.precision == Precision::Single;
        if single {
            o.precision = Precision::Bf16;
        }
        single
    },
    |o| !std::mem::replace(&mut o.use_8bit_adam, true),
];

/// The settings nearest to those of `asked`, which take `least` bytes, that stay within `limit`: the fewest changes, in every way that
/// does. If none does, what takes least; nothing if nothing takes less. `compile` says what training takes.
pub(crate) fn nearest(
    asked: &TrainOptions,
    limit: u64,
    least: u64,
    compile: impl Fn(&TrainOptions) -> Result<u64>,
) -> Vec<Fit> {
    let measure = |changes: &[Change]| {
        let mut options = asked.clone();
        let possible = changes.iter().all(|change| change(&mut options));
        let bytes = match possible.then(|| compile(&options))? {
            Ok(bytes) | Err(Error::Memory { least: bytes, .. }) => bytes,
            // It is no way out of having too little memory.
            Err(_) => return None,
        };
        let TrainOptions { weights, precision, use_8bit_adam, .. } = options;
        Some(Fit { weights, precision, use_8bit_adam, bytes }).filter(|fit| fit.bytes < least)
    };
    let within = |fits: &[Fit]| -> Vec<Fit> { fits.iter().copied().filter(|fit| fit.bytes <= limit).collect() };
    let (changes, mut found): (Vec<Change>, Vec<Fit>) =
        CHANGES.into_iter().filter_map(|change| Some((change, measure(&[change])?))).unzip();
    let mut fits = within(&found);
    // Changes that help each by itself may not help together, so that sets of any number are tried.
    if let ([a, b, c], true) = (&changes[..], fits.is_empty()) {
        let pairs = [[*a, *b], [*a, *c], [*b, *c]];
        found.extend(pairs.iter().filter_map(|pair| measure(pair)));
        fits = within(&found);
    }
    if fits.is_empty() && changes.len() > 1 {
        found.extend(measure(&changes));
        fits = within(&found);
    }
    match found.into_iter().min_by_key(|fit| fit.bytes) {
        Some(least) if fits.is_empty() => vec![least],
        _ => fits,
    }
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
        let fits = nearest(asked, limit, taken(asked), compile);
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
        // Changes that take more are no help, and neither are sets with them.
        let odd = |options: &TrainOptions| match (options.weights, options.precision) {
            (Streamed, _) => Ok(200),
            (_, Bf16) => Ok(120),
            _ => Err(Error::Option("no".into())),
        };
        let fits: Vec<_> = nearest(&plain, 100, 188, odd).iter().map(|f| (f.weights, f.precision, f.bytes)).collect();
        assert_eq!(fits, [(Resident, Bf16, 120)]);
        // Streaming helps alone, and not beside half precision.
        let apart = |options: &TrainOptions| {
            let streamed = if options.weights == Streamed { 30 } else { 0 };
            let half = if options.precision == Bf16 { 50 - streamed * 3 } else { 0 };
            Ok((188 - streamed - half - if options.use_8bit_adam { 20 } else { 0 }) as u64)
        };
        let fits: Vec<_> = nearest(&plain, 120, 188, apart).iter().map(|f| (f.weights, f.use_8bit_adam)).collect();
        assert_eq!(fits, [(Resident, true)]);
        let least = TrainOptions { precision: Precision::Fp16, use_8bit_adam: true, ..asked(Streamed) };
        assert_eq!(found(&least, 51), []);
    }
}
