//! The gradient at trained entries on a GPU: a warp for each entry where they are few, else tiles of the whole product, of
//! which only the entries are kept.

use crate::conv::Geometry;
use crate::cuda::{Cuda, Param, THREADS, TILE, Task, Work, few};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let g = Geometry::of(t);
    let (count, kind, cols) = (t.len("idx"), t.kind("dp"), g.ci_group() * g.taps());
    let mut params = vec![g.param(), t.at("x"), t.at("dy"), t.at("idx"), t.at("dp")];
    params.extend([count, cols, g.n * g.output_len()].map(|v| Param::I64(v as i64)));
    if few(count, g.co * cols) {
        w.blocks(format!("masked_conv_grad_sample_{kind}"), count.div_ceil(8), THREADS, params);
    } else if count > 0 {
        let grid = [cols.div_ceil(TILE), g.co_group().div_ceil(TILE), g.groups];
        w.launch(format!("masked_conv_grad_tile_{kind}"), grid, THREADS, params);
    }
}
