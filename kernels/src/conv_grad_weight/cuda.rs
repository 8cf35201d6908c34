//! Dense gradient of a convolution's weight on a GPU: a block for each tile.

use crate::conv::Geometry;
use crate::cuda::{Cuda, THREADS, TILE, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let g = Geometry::of(t);
    let params = vec![g.param(), t.at("x"), t.at("dy"), t.at("dw")];
    let grid = [(g.ci_group() * g.taps()).div_ceil(TILE), g.co_group().div_ceil(TILE), g.groups];
    w.launch(format!("conv_grad_weight_{}", t.kind("dw")), grid, THREADS, params);
}
