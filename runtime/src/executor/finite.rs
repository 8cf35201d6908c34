//! Looking for the first number that is not finite.

use super::Executor;
use crate::error::Result;
use crate::plan::{BufferId, Place};
use sara_kernels::{DType, Mode};
use std::collections::HashMap;

/// A tensor that holds a number that is not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// Its name.
    pub tensor: String,
    /// The ONNX node that made it; empty for an input.
    pub origin: String,
    /// Whether it holds NaN; otherwise it holds an infinity.
    pub nan: bool,
    /// Of a NaN: the first tensor before it that holds an infinity, which may be the cause or be meant.
    pub after: Option<String>,
}

/// The worst that a tensor holds.
enum Extreme {
    Finite,
    Infinite,
    NaN,
}

impl Executor {
    /// Runs a program until a tensor holds NaN. An infinity can be meant, as in a mask: the first tensor that holds one is the answer
    /// only if none holds NaN, and comes with the NaN otherwise.
    ///
    /// A tensor is looked at where it is first read, because it may be written in parts.
    pub fn find_not_finite(&mut self, program: &str) -> Result<Option<NotFinite>> {
        let single = |executor: &mut Executor, on| executor.attached.as_mut().into_iter().for_each(|a| a.single(on));
        single(self, true);
        let found = self.step_by_step(program);
        single(self, false);
        found
    }

    fn step_by_step(&mut self, program: &str) -> Result<Option<NotFinite>> {
        let at = self.position(program)?;
        let mut search = Search { program: at, ..Search::default() };
        let inputs: Vec<BufferId> = self.plan.programs[at].inputs.iter().map(|p| p.buffer).collect();
        search.written.extend(inputs.iter().map(|id| (*id, None)));
        for id in inputs {
            if let Some(found) = search.read(self, id)? {
                return Ok(Some(found));
            }
        }
        for i in 0..self.plan.programs[at].steps.len() {
            let step = &self.plan.programs[at].steps[i];
            let args = step.kernel.args.iter().zip(&step.args).filter_map(|(arg, id)| id.map(|id| (arg.mode, id)));
            let (read, changed): (Vec<_>, Vec<_>) = args.partition(|(mode, _)| *mode == Mode::Read);
            for (_, id) in read {
                if let Some(found) = search.read(self, id)? {
                    return Ok(Some(found));
                }
            }
            self.run_steps(at, i..i + 1)?;
            search.written.extend(changed.into_iter().map(|(_, id)| (id, Some(i))));
        }
        // Of what nothing read, the arena holds only outputs whole.
        let mut last: Vec<(Option<usize>, BufferId)> = search.written.iter().map(|(id, by)| (*by, *id)).collect();
        last.sort_unstable();
        for (_, id) in last {
            let outputs = &self.plan.programs[at].outputs;
            let whole =
                !matches!(self.plan.buffer(id).place, Place::Arena(_)) || outputs.iter().any(|p| p.buffer == id);
            if whole && let Some(found) = search.read(self, id)? {
                return Ok(Some(found));
            }
        }
        Ok(search.infinite)
    }

    fn extreme(&self, id: BufferId) -> Result<Extreme> {
        fn of<T: bytemuck::Pod>(bytes: &[u8], nan: fn(T) -> bool, finite: fn(T) -> bool) -> Extreme {
            let values = || bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned::<T>);
            if values().all(finite) {
                Extreme::Finite
            } else if values().any(nan) {
                Extreme::NaN
            } else {
                Extreme::Infinite
            }
        }
        let bytes = &self.bytes(id)?;
        Ok(match self.plan.buffer(id).dtype {
            DType::F32 => of(bytes, f32::is_nan, f32::is_finite),
            DType::F64 => of(bytes, f64::is_nan, f64::is_finite),
            _ => Extreme::Finite,
        })
    }
}

/// A search in the course of a program.
#[derive(Default)]
struct Search {
    program: usize,
    /// What was written and not looked at since, and by which step; inputs by none.
    written: HashMap<BufferId, Option<usize>>,
    /// The first infinity.
    infinite: Option<NotFinite>,
}

impl Search {
    /// Looks at a tensor that is about to be read, if it was written since it was looked at last, and returns a NaN in it.
    fn read(&mut self, executor: &Executor, id: BufferId) -> Result<Option<NotFinite>> {
        let Some(by) = self.written.remove(&id) else { return Ok(None) };
        let nan = match executor.extreme(id)? {
            Extreme::Finite => return Ok(None),
            Extreme::Infinite => false,
            Extreme::NaN => true,
        };
        let program = &executor.plan.programs[self.program];
        let port = program.inputs.iter().find(|p| p.buffer == id);
        let tensor = port.map_or(&executor.plan.buffer(id).name, |p| &p.name).clone();
        let origin = by.map_or(String::new(), |step| program.steps[step].origin.clone());
        let mut found = NotFinite { tensor, origin, nan, after: None };
        if nan {
            found.after = self.infinite.take().map(|i| i.tensor);
            return Ok(Some(found));
        }
        self.infinite.get_or_insert(found);
        Ok(None)
    }
}
