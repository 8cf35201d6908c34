//! The gradient at trained entries on a GPU: a warp for each entry where that costs less, else tiles of the whole product, of which only
//! the entries are kept.

use crate::conv::Geometry;
use crate::cuda::{Cuda, Param, THREADS, Task, Work};
use crate::masked_matmul_grad::cuda::{by_entry, products};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let g = Geometry::of(t);
    let (count, kind, cols) = (t.len("idx"), t.kind("dp"), g.ci_group() * g.taps());
    let kinds = [t.kind("x"), t.kind("dy")].join("_");
    let terms = g.n * g.output_len();
    let mut params = vec![g.param(), t.at("x"), t.at("dy"), t.at("idx"), t.at("dp")];
    params.extend([count, cols, terms].map(Param::long));
    if by_entry(t, ["x", "dy"], [g.strides[2], 1], count, g.co * cols) {
        w.blocks(format!("masked_conv_grad_sample_{kinds}"), count.div_ceil(8), THREADS, params);
    } else if count > 0 {
        let split = w.split_places([g.co_group(), cols, terms], g.groups, count, t.dtype("dp"));
        params.push(split.param());
        w.tiles(format!("masked_conv_grad_tile_{kinds}{}", products(t, ["x", "dy"])), &split, g.groups, params);
        w.join(format!("masked_conv_grad_join_{kind}"), &split, t.at("dp"), count);
    }
}
