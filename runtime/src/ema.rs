//! The exponential moving average of what trains. Only trained entries have one, so it costs four bytes for each.

use crate::executor::Executor;

/// The average of all trained values, in the order of the plan's entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Ema {
    decay: f64,
    values: Vec<Vec<f32>>,
}

impl Ema {
    /// The average before the first step: the values themselves.
    pub fn new(executor: &Executor, decay: f64) -> Ema {
        let values = (0..executor.plan().sparse.len()).map(|s| executor.values(s)).collect();
        Ema { decay, values }
    }

    /// An average that was saved. Nothing if it does not fit the plan.
    pub fn restored(executor: &Executor, decay: f64, values: Vec<Vec<f32>>) -> Option<Ema> {
        let sparse = &executor.plan().sparse;
        let fits = sparse.len() == values.len() && sparse.iter().zip(&values).all(|(s, v)| s.index.len() == v.len());
        fits.then_some(Ema { decay, values })
    }

    /// The values.
    pub fn values(&self) -> &[Vec<f32>] {
        &self.values
    }

    /// Takes in the values after `step` steps. The decay grows with the steps as diffusers' does: (1 + step) / (10 + step), up to its
    /// limit. Allocates nothing.
    pub fn update(&mut self, executor: &Executor, step: u64) {
        let decay = ((1 + step) as f64 / (10 + step) as f64).min(self.decay);
        for (s, averages) in self.values.iter_mut().enumerate() {
            let all = &executor.plan().sparse[s].index;
            // Entries that no longer train stay where they are, and their average comes to them.
            let (left, left_values) = executor.left(s);
            let kept = (executor.indices(s), executor.state(s)[0]);
            for (index, values) in [kept, (left, left_values)] {
                let mut at = 0;
                for (i, value) in index.iter().zip(values) {
                    at += all[at..].partition_point(|own| own < i);
                    let average = &mut averages[at];
                    *average = (f64::from(*value) + decay * (f64::from(*average) - f64::from(*value))) as f32;
                }
            }
        }
    }
}
