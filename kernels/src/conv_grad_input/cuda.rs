//! Gradient of a convolution's input on a GPU: a block for each tile of input channels and input elements.

use crate::conv::Geometry;
use crate::cuda::{Cuda, THREADS, TILE, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let g = Geometry::of(t);
    let params = vec![g.param(), t.at("dy"), t.at("w"), t.at("dx")];
    let grid = [(g.n * g.input_len()).div_ceil(TILE), g.ci_group().div_ceil(TILE), g.groups];
    w.launch(format!("conv_grad_input_{}", t.kind("dx")), grid, THREADS, params);
}
