//! The gradient of a convolution's input on a GPU: a block for each tile of input channels and input elements.

use crate::conv::Geometry;
use crate::conv::cuda::volume;
use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let g = Geometry::of(t);
    let dims = [g.ci_group(), g.n * g.input_len(), g.co_group() * g.taps()];
    let split = w.split(dims, g.groups, t.dtype("dx"));
    let params = vec![g.param(), t.at("dy"), t.at("w"), t.at("dx"), split.param()];
    // The simpler form is for strides of one.
    let form = if volume(&g) || g.strides != [1; 3] { "volume_" } else { "" };
    let entry = format!("conv_grad_input_{form}{}_{}{}", t.kind("w"), t.kind("dy"), t.products(["w", "dy"]));
    w.tiles(entry, &split, g.groups, params);
    if let Some(parts) = split.parts() {
        let params = vec![g.param(), parts, t.at("dx"), Param::long(split.shares())];
        w.each(format!("conv_grad_input_join_{}", t.kind("dx")), t.len("dx"), params);
    }
}
