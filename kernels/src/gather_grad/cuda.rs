//! The gradient of gathering on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("dx");
    let count = Param::I64(t.len("index") as i64);
    let params =
        vec![t.at("dy"), t.at("index"), t.at("dx"), count, t.long("axis"), t.long("inner"), Param::I64(n as i64)];
    w.each(format!("gather_grad_{}", t.kind("dx")), n, params);
}
