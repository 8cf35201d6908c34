//! Group normalisation on a GPU: a block for each group.

use super::Shape;
use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let s = Shape::of(t);
    let mut params: Vec<Param> = ["x", "scale", "bias", "y", "mean", "rstd"].map(|name| t.at(name)).to_vec();
    params.extend([s.groups, s.depth(), s.inner].map(|v| Param::I64(v as i64)));
    params.push(Param::F64(t.float("epsilon")));
    w.blocks(format!("group_norm_{}", t.kind("y")), s.n * s.groups, 512, params);
}
