//! The state of what trains: positions, values, gradients and moments of the entries of sparse weights.

use super::{Executor, StateAt};
use crate::error::{Error, Result};
use sara_kernels::sparse_adamw_8bit::{BLOCK, Map, SIGNED, UNSIGNED};
use sara_kernels::{Stored as _, for_stored, hyper};

/// What trains of a sparse weight, and what no more does.
#[derive(Clone, Copy, Debug)]
pub struct SparseState<'a> {
    /// Positions of the entries that train, ascending.
    pub index: &'a [u32],
    /// Their values.
    pub values: &'a [f32],
    /// Their moments, in the form that the plan has them.
    pub moments: Moments<'a>,
    /// Positions of the entries that train no more, ascending.
    pub left: &'a [u32],
    /// Their values.
    pub left_values: &'a [f32],
}

/// First and second moments of the entries that train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moments<'a> {
    /// In single precision.
    Single([&'a [f32]; 2]),
    /// As codes, with the largest magnitude of each block.
    Coded {
        /// The codes.
        codes: [&'a [u8]; 2],
        /// The largest magnitudes.
        absmax: [&'a [f32]; 2],
    },
}

impl Moments<'_> {
    /// Whether they are what `count` entries have.
    fn fit(&self, count: usize, use_8bit_adam: bool) -> bool {
        match self {
            Moments::Single(moments) => !use_8bit_adam && moments.iter().all(|m| m.len() == count),
            Moments::Coded { codes, absmax } => {
                let blocks = count.div_ceil(BLOCK);
                use_8bit_adam && codes.iter().all(|c| c.len() == count) && absmax.iter().all(|a| a.len() == blocks)
            }
        }
    }

    /// The numbers that they are, the first moments and the second.
    pub fn decoded(&self) -> [Vec<f32>; 2] {
        match self {
            Moments::Single(moments) => moments.map(<[f32]>::to_vec),
            Moments::Coded { codes, absmax } => MAPS.map(|(which, map)| {
                let mut values = vec![0.0; codes[which].len()];
                let blocks = codes[which].chunks(BLOCK).zip(absmax[which]);
                for (values, (codes, absmax)) in values.chunks_mut(BLOCK).zip(blocks) {
                    map.decode(codes, *absmax, values);
                }
                values
            }),
        }
    }
}

/// The first and the second moment, and what their codes stand for.
const MAPS: [(usize, &Map); 2] = [(0, &SIGNED), (1, &UNSIGNED)];

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

    /// State of sparse weight `s`: values and accumulated gradient.
    pub fn state(&self, s: usize) -> [&[f32]; 2] {
        let at = self.state_at[s];
        [at.param, at.gradient].map(|offset| self.settled().view(offset, at.count))
    }

    /// Moments of sparse weight `s`.
    pub fn moments(&self, s: usize) -> Moments<'_> {
        let (at, state) = (self.state_at[s], self.settled());
        match self.plan.use_8bit_adam {
            false => Moments::Single(at.moments.map(|offset| state.view(offset, at.count))),
            true => Moments::Coded {
                codes: at.moments.map(|offset| state.view(offset, at.count)),
                absmax: at.absmax.map(|offset| state.view(offset, at.count.div_ceil(BLOCK))),
            },
        }
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
        let fit = moments.fit(n, self.plan.use_8bit_adam);
        if values.len() != n || !fit || left.len() != left_values.len() {
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
        for which in 0..2 {
            match moments {
                Moments::Single(moments) => self.state.view_mut(at.moments[which], n).copy_from_slice(moments[which]),
                Moments::Coded { codes, absmax } => {
                    self.state.view_mut(at.moments[which], n).copy_from_slice(codes[which]);
                    self.state.view_mut(at.absmax[which], n.div_ceil(BLOCK)).copy_from_slice(absmax[which]);
                }
            }
        }
        self.state.view_mut::<f32>(at.gradient, n).fill(0.0);
        self.state_at[s] = at;
        let len = self.plan.weights[sparse.weight as usize].len() as usize;
        let weight = self.weight_at[sparse.weight as usize];
        let entries = || index.iter().zip(values).chain(left.iter().zip(left_values));
        if let Some((place, stored)) = weight {
            for_stored!(stored, S => self.change_weight(place, len, |w: &mut [S]| {
                entries().for_each(|(i, v)| w[*i as usize] = S::narrow(*v));
            })?);
        }
        self.state_changed(s)?;
        self.bind();
        Ok(())
    }

    /// Keeps, of each sparse weight, the entries with `|w|` below the threshold by which they were chosen; the others stay as they
    /// are and train no more. Moments of those that stay are kept; codes are made anew, because the blocks are others. Returns how
    /// many entries train now.
    pub fn reselect(&mut self) -> Result<u64> {
        self.settle()?;
        let mut total = 0;
        for s in 0..self.plan.sparse.len() {
            let (at, threshold) = (self.state_at[s], self.plan.sparse[s].threshold);
            let (index, param) = (at.index, at.param);
            let stays: Vec<bool> = self.state(s)[0].iter().map(|value| f64::from(value.abs()) < threshold).collect();
            let mut kept = 0;
            for k in (0..at.count).filter(|k| stays[*k]) {
                self.state.view_mut::<u32>(index, k + 1).swap(kept, k);
                self.state.view_mut::<f32>(param, k + 1).swap(kept, k);
                kept += 1;
            }
            if kept < at.count {
                let moments = self.moments(s).decoded().map(|values| {
                    values.into_iter().zip(&stays).filter(|(_, stays)| **stays).map(|(value, _)| value).collect()
                });
                self.encode_moments(s, &moments);
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
            self.state_at[s].count = kept;
            self.state.view_mut::<f32>(at.gradient, kept).fill(0.0);
            total += kept as u64;
        }
        for s in 0..self.plan.sparse.len() {
            self.state_changed(s)?;
        }
        self.bind();
        Ok(total)
    }

    /// Stores moments of sparse weight `s` in the form that the plan has them.
    fn encode_moments(&mut self, s: usize, moments: &[Vec<f32>; 2]) {
        let at = self.state_at[s];
        for (which, map) in MAPS {
            let values = &moments[which];
            if !self.plan.use_8bit_adam {
                self.state.view_mut(at.moments[which], values.len()).copy_from_slice(values);
                continue;
            }
            for (block, values) in values.chunks(BLOCK).enumerate() {
                let codes = self.state.view_mut(at.moments[which] + block * BLOCK, values.len());
                let absmax = map.encode(values, codes);
                self.state.view_mut::<f32>(at.absmax[which], block + 1)[block] = absmax;
            }
        }
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
