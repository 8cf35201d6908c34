//! The passes, in the order in which they run.

pub mod bias;
pub mod canonicalise;
pub mod differentiate;
pub mod fold;
pub mod fuse;
pub mod join;
pub mod keep;
pub mod narrow;
pub mod rematerialise;
pub mod round;
pub mod schedule;
pub mod sparsify;
pub mod stream;
pub mod update;

use crate::compile::{Precision, Residency};
use crate::error::Result;
use crate::ir::verify::verify;
use crate::ir::{Graph, Stage};
use crate::loss::Loss;

/// A transformation of the graph.
pub struct Pass {
    /// Name, for `--dump-after` and errors.
    pub name: &'static str,
    /// What it does to the graph.
    pub run: fn(&mut Graph, &Context<'_>) -> Result<()>,
    /// The stage that the graph reaches by it.
    pub stage: Stage,
}

/// What passes may ask for.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What trains.
    pub selection: &'a crate::select::Chosen,
    /// What is made small.
    pub loss: Loss,
    /// Memory that training may take.
    pub limit: Option<Limit<'a>>,
    /// Where weights are while training.
    pub weights: Residency,
    /// What is stored in half precision.
    pub precision: Precision,
    /// Whether the moments of Adam are stored in a byte each.
    pub use_8bit_adam: bool,
}

/// A limit on the memory of training.
#[derive(Clone, Copy)]
pub struct Limit<'a> {
    /// The limit.
    pub bytes: u64,
    /// What training by a graph takes.
    pub measure: &'a dyn Fn(&Graph) -> Result<Measured>,
}

/// Memory that training takes.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Bytes.
    pub bytes: u64,
    /// Those of them that are not in the arena.
    pub besides: u64,
}

/// All passes. Import comes before them: it binds shapes and computes constants on the way.
pub const PIPELINE: &[Pass] = &[
    Pass { name: "fold", run: |g, _| fold::run(g), stage: Stage::Imported },
    Pass { name: "canonicalise", run: |g, _| canonicalise::run(g), stage: Stage::Canonical },
    Pass { name: "narrow", run: narrow::run, stage: Stage::Sparse },
    Pass { name: "sparsify", run: |g, c| sparsify::run(g, c.selection), stage: Stage::Sparse },
    Pass { name: "differentiate", run: |g, c| differentiate::run(g, c.loss), stage: Stage::Sparse },
    Pass { name: "update", run: |g, c| update::run(g, c.use_8bit_adam), stage: Stage::Differentiated },
    Pass { name: "fuse", run: |g, _| fuse::run(g), stage: Stage::Fused },
    Pass { name: "join", run: |g, _| join::run(g), stage: Stage::Fused },
    Pass { name: "bias", run: |g, _| bias::run(g), stage: Stage::Fused },
    Pass { name: "schedule", run: |g, _| schedule::run(g), stage: Stage::Fused },
    Pass { name: "rematerialise", run: rematerialise::run, stage: Stage::Fused },
    Pass { name: "round", run: round::run, stage: Stage::Fused },
    Pass { name: "keep", run: keep::run, stage: Stage::Fused },
    Pass { name: "stream", run: stream::run, stage: Stage::Fused },
];

/// Runs one pass, raises the stage and verifies.
pub fn apply(pass: &Pass, graph: &mut Graph, context: &Context<'_>) -> Result<()> {
    (pass.run)(graph, context)?;
    graph.stage = graph.stage.max(pass.stage);
    verify(graph, pass.name)
}
