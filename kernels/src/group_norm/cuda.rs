//! Group normalisation on a GPU: a block for each group.

use super::Shape;
use crate::cuda::{Cuda, Param, Task, Work};
use crate::fuse::Head;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let s = Shape::of(t);
    let mut params: Vec<Param> = ["x", "scale", "bias", "y", "mean", "rstd"].map(|name| t.at(name)).to_vec();
    params.extend([s.groups, s.depth(), s.inner].map(|v| Param::I64(v as i64)));
    params.push(Param::F64(t.float("epsilon")));
    w.blocks(format!("group_norm_{}_{}", t.kind("x"), t.kind("y")), s.n * s.groups, 512, params);
}

pub(crate) fn head(t: &Task<'_>, _: &Work) -> Option<Head> {
    let parameters =
        "const X* x, const T* scale, const T* bias, T* mean, T* rstd, i64 groups, i64 depth, i64 inner, f64 epsilon";
    let call = "group_norm_forward(x, scale, bias, mean, rstd, groups, depth, inner, epsilon, put)";
    let mut head = t.head("y", "norm.h", parameters, call).reading(t);
    head.threads = "GROUP";
    Some(head)
}
