//! What the launches of a program are for, and what each part takes.

use super::verify::bytes;
use super::{Buffer, BufferId, Place, Plan, Program, Step};
use sara_kernels::Call;
use std::collections::HashMap;

/// What a launch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// From inputs to loss.
    Forward,
    /// From loss to gradients.
    Backward,
    /// What the forward did not keep, computed a second time for the backward.
    Again,
    /// From gradients to new weights.
    Update,
}

impl Part {
    /// All parts; a plan's file counts them in this order.
    pub const ALL: [Part; 4] = [Part::Forward, Part::Backward, Part::Again, Part::Update];
}

impl Plan {
    /// Bytes of the arena that are alive between forward and backward of a program: what is kept, the inputs that the
    /// backward reads among it. Zero if there is no backward.
    pub fn kept_bytes(&self, program: &Program) -> u64 {
        let Some(boundary) = program.steps.iter().position(|s| s.part != Part::Forward) else { return 0 };
        let (forward, backward) = program.steps.split_at(boundary);
        let mut read: HashMap<BufferId, bool> = program.inputs.iter().map(|p| (p.buffer, false)).collect();
        read.extend(forward.iter().flat_map(Step::used).map(|id| (id, false)));
        let outputs = program.outputs.iter().map(|p| p.buffer);
        for id in backward.iter().flat_map(Step::used).chain(outputs) {
            read.entry(id).and_modify(|read| *read = true);
        }
        let kept = read.into_iter().filter(|(_, read)| *read).map(|(id, _)| self.buffer(id));
        kept.filter(|b| matches!(b.place, Place::Arena(_))).map(bytes).sum()
    }

    /// Floating-point operations of one part of a program.
    pub fn flops(&self, program: &Program, part: Part) -> u64 {
        program.steps.iter().filter(|s| s.part == part).map(|s| s.flops(&self.buffers)).sum()
    }
}

impl Step {
    /// The buffers that it reads or writes.
    fn used(&self) -> impl Iterator<Item = BufferId> {
        self.args.iter().flatten().copied()
    }

    /// Floating-point operations of the launch.
    pub fn flops(&self, buffers: &[Buffer]) -> u64 {
        let lens: Vec<usize> =
            self.args.iter().map(|id| id.map_or(0, |id| buffers[id.0 as usize].len as usize)).collect();
        (self.kernel.flops)(&Call { kernel: self.kernel, lens: &lens, scalars: &self.scalars })
    }
}
