//! Gradient of group normalisation's scale and bias on a GPU: a block for each channel.

use crate::cuda::{Cuda, Param, THREADS, Task, Work};
use crate::group_norm::Shape;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let s = Shape::of(t);
    let mut params: Vec<Param> = ["x", "dy", "mean", "rstd", "dscale", "dbias"].map(|name| t.at(name)).to_vec();
    params.extend([s.n, s.channels, s.groups, s.inner].map(|v| Param::I64(v as i64)));
    w.blocks(format!("group_norm_grad_affine_{}", t.kind("dscale")), s.channels, THREADS, params);
}
