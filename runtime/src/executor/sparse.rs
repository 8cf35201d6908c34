//! The state of what trains: positions, values, gradients and moments of the entries of sparse weights.

use super::{Executor, StateAt};
use crate::error::{Error, Result};
use sara_kernels::{DType, hyper, narrow};

/// What trains of a sparse weight, and what no more does.
#[derive(Clone, Copy, Debug)]
pub struct SparseState<'a> {
    /// Positions of the entries that train, ascending.
    pub index: &'a [u32],
    /// Their values.
    pub values: &'a [f32],
    /// Their first and second moments.
    pub moments: [&'a [f32]; 2],
    /// Positions of the entries that train no more, ascending.
    pub left: &'a [u32],
    /// Their values.
    pub left_values: &'a [f32],
}

impl Executor {
    /// Entries of sparse weight `s` that train now.
    pub fn count(&self, s: usize) -> usize {
        self.state_at[s].count
    }

    /// Positions of the entries of sparse weight `s` that train now.
    pub fn indices(&self, s: usize) -> &[u32] {
        let at = self.state_at[s];
        self.settled().view(at.index, at.count)
    }

    /// State of sparse weight `s`: values, accumulated gradient, first and second moment.
    pub fn state(&self, s: usize) -> [&[f32]; 4] {
        let at = self.state_at[s];
        [at.param, at.gradient, at.moment1, at.moment2].map(|offset| self.settled().view(offset, at.count))
    }

    /// Positions and values of the entries of sparse weight `s` that train no more, in ascending order.
    pub fn left(&self, s: usize) -> (&[u32], &[f32]) {
        let at = self.state_at[s];
        let (index, values) = (self.settled().view(at.index, at.all), self.settled().view(at.param, at.all));
        (&index[at.count..], &values[at.count..])
    }

    /// Values of all entries of sparse weight `s` that the plan trains, in the order of the plan, whether they still train or not.
    pub fn values(&self, s: usize) -> Vec<f32> {
        let at = self.state_at[s];
        let (index, values): (&[u32], &[f32]) =
            (self.settled().view(at.index, at.all), self.settled().view(at.param, at.all));
        let mut pairs: Vec<(u32, f32)> = index.iter().copied().zip(values.iter().copied()).collect();
        pairs.sort_unstable_by_key(|p| p.0);
        pairs.into_iter().map(|p| p.1).collect()
    }

    /// Replaces the state of sparse weight `s`. The gradient becomes zero, and the weight takes the values.
    pub fn set_state(&mut self, s: usize, state: &SparseState<'_>) -> Result<()> {
        let SparseState { index, values, moments, left, left_values } = *state;
        let sparse = &self.plan.sparse[s];
        let name = || self.plan.weights[sparse.weight as usize].name.clone();
        let n = index.len();
        if [values.len(), moments[0].len(), moments[1].len()] != [n; 3] || left.len() != left_values.len() {
            return Err(Error::tensor(name(), "index, values and moments have different lengths"));
        }
        let mut all = [index, left].concat();
        all.sort_unstable();
        if all != sparse.index || !index.is_sorted() || !left.is_sorted() {
            return Err(Error::tensor(name(), "its positions are not those that the plan trains, in ascending order"));
        }
        self.settle()?;
        let sparse = &self.plan.sparse[s];
        let at = StateAt { count: n, ..self.state_at[s] };
        self.state.view_mut(at.index, at.all).copy_from_slice(&[index, left].concat());
        self.state.view_mut(at.param, at.all).copy_from_slice(&[values, left_values].concat());
        self.state.view_mut(at.moment1, n).copy_from_slice(moments[0]);
        self.state.view_mut(at.moment2, n).copy_from_slice(moments[1]);
        self.state.view_mut::<f32>(at.gradient, n).fill(0.0);
        self.state_at[s] = at;
        let len = self.plan.weights[sparse.weight as usize].len() as usize;
        let weight = self.weight_at[sparse.weight as usize];
        let entries = || index.iter().zip(values).chain(left.iter().zip(left_values));
        match weight {
            None => {}
            Some((place, DType::Bf16)) => self.change_weight(place, len, |w: &mut [half::bf16]| {
                entries().for_each(|(i, v)| w[*i as usize] = narrow(*v));
            })?,
            Some((place, _)) => self.change_weight(place, len, |w: &mut [f32]| {
                entries().for_each(|(i, v)| w[*i as usize] = *v);
            })?,
        }
        self.state_changed(s)?;
        self.bind();
        Ok(())
    }

    /// Keeps, of each sparse weight, the entries with `|w|` below the threshold by which they were chosen; the others stay as they
    /// are and train no more. Moments of those that stay are kept. Returns how many entries train now.
    pub fn reselect(&mut self) -> Result<u64> {
        self.settle()?;
        let mut total = 0;
        for (at, sparse) in self.state_at.iter_mut().zip(&self.plan.sparse) {
            let (index, param, m, v) = (at.index, at.param, at.moment1, at.moment2);
            let mut kept = 0;
            for k in 0..at.count {
                let value: f32 = self.state.view::<f32>(param, k + 1)[k];
                if f64::from(value.abs()) < sparse.threshold {
                    self.state.view_mut::<u32>(index, k + 1).swap(kept, k);
                    for field in [param, m, v] {
                        self.state.view_mut::<f32>(field, k + 1).swap(kept, k);
                    }
                    kept += 1;
                }
            }
            let (positions, values): (&[u32], &[f32]) =
                (self.state.view(index, at.all), self.state.view(param, at.all));
            let mut left: Vec<(u32, f32)> =
                positions[kept..].iter().copied().zip(values[kept..].iter().copied()).collect();
            left.sort_unstable_by_key(|l| l.0);
            for (k, (position, value)) in left.into_iter().enumerate() {
                self.state.view_mut::<u32>(index, at.all)[kept + k] = position;
                self.state.view_mut::<f32>(param, at.all)[kept + k] = value;
            }
            at.count = kept;
            self.state.view_mut::<f32>(at.gradient, kept).fill(0.0);
            total += kept as u64;
        }
        for s in 0..self.plan.sparse.len() {
            self.state_changed(s)?;
        }
        self.bind();
        Ok(total)
    }

    /// Sets all accumulated gradients to zero.
    pub fn clear_gradients(&mut self) -> Result<()> {
        for at in &self.state_at {
            self.state.view_mut::<f32>(at.gradient, at.count).fill(0.0);
            if let Some(attached) = &mut self.attached {
                attached.clear(at.gradient, at.count * size_of::<f32>())?;
            }
        }
        Ok(())
    }

    /// The hyper-parameters.
    pub fn hyper(&mut self) -> &mut [f32] {
        if let Some(attached) = &mut self.attached {
            attached.hyper_changed();
        }
        self.state.view_mut(self.hyper_at, hyper::LEN)
    }
}
