//! Convolution on a GPU: a block for each tile of output channels and output elements.

use super::Geometry;
use crate::cuda::{Cuda, THREADS, TILE, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let g = Geometry::of(t);
    let params = vec![g.param(), t.at("x"), t.at("w"), t.at("bias"), t.at("y")];
    let grid = [(g.n * g.output_len()).div_ceil(TILE), g.co_group().div_ceil(TILE), g.groups];
    w.launch(format!("conv_{}", t.kind("y")), grid, THREADS, params);
}
