//! Convolution on a GPU: a block for each tile of output channels and output elements.

use super::Geometry;
use crate::cuda::{Cuda, Param, Task, Work};
use crate::fuse::Head;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let g = Geometry::of(t);
    let dims = [g.co_group(), g.n * g.output_len(), g.ci_group() * g.taps()];
    let split = w.split(dims, g.groups, t.dtype("y"));
    let params = vec![g.param(), t.at("x"), t.at("w"), t.at("bias"), t.at("y"), split.param()];
    let form = if volume(&g) { "volume_" } else { "" };
    let entry = format!("conv_{form}{}_{}{}", t.kind("w"), t.kind("x"), t.products(["w", "x"]));
    w.tiles(entry, &split, g.groups, params);
    if let Some(parts) = split.parts() {
        let params = vec![g.param(), parts, t.at("bias"), t.at("y"), Param::long(split.shares())];
        w.each(format!("conv_join_{}", t.kind("y")), t.len("y"), params);
    }
}

/// Whether the first of three dimensions counts.
pub(crate) fn volume(g: &Geometry) -> bool {
    g.input[0] * g.output[0] * g.kernel[0] != 1 || g.pads[0] != 0
}

pub(crate) fn head(t: &Task<'_>, w: &Work) -> Option<Head> {
    Some(if w.steps.len() > 1 {
        let parameters = "Geometry g, const T* parts, const T* bias, i64 shares";
        t.head("y", "conv.h", parameters, "convolve_join(g, parts, bias, shares, put)")
    } else {
        let parameters = "Geometry g, const B* x, const A* w, const T* bias, Split<T> split";
        let volume = volume(&Geometry::of(t));
        let call = format!("convolve<P, {}>(g, x, w, bias, split, put)", if volume { 3 } else { 2 });
        let head = t.head("y", "conv.h", parameters, &call).product(t, ["w", "x"]);
        if volume { head.alone() } else { head }
    })
}
