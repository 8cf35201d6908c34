//! Gradient of group normalisation on a GPU: a block for each group.

use crate::cuda::{Cuda, Param, Task, Work};
use crate::group_norm::Shape;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let s = Shape::of(t);
    let mut params: Vec<Param> = ["x", "dy", "scale", "mean", "rstd", "dx"].map(|name| t.at(name)).to_vec();
    params.extend([s.groups, s.depth(), s.inner].map(|v| Param::I64(v as i64)));
    let blocks = if s.group() == 0 { 0 } else { s.n * s.groups };
    w.blocks(format!("group_norm_grad_{}", t.kind("x")), blocks, 512, params);
}
