//! Dense gradient of a convolution's weight on a GPU: a block for each tile.

use crate::conv::Geometry;
use crate::cuda::{Cuda, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let g = Geometry::of(t);
    let kind = t.kind("dw");
    let dims = [g.co_group(), g.ci_group() * g.taps(), g.n * g.output_len()];
    let split = w.split(dims, g.groups, t.dtype("dw"));
    let params = vec![g.param(), t.at("x"), t.at("dy"), t.at("dw"), split.param()];
    w.tiles(format!("conv_grad_weight_{kind}{}", t.products(["x", "dy"])), &split, g.groups, params);
    w.join(format!("conv_grad_weight_join_{kind}"), &split, t.at("dw"), t.len("dw"));
}
