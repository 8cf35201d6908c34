//! Selection on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let space = t.space("shape", ["cond_strides", "a_strides", "b_strides"]);
    let params = vec![space, t.at("cond"), t.at("a"), t.at("b"), t.at("y"), Param::I64(n as i64)];
    w.each(format!("select_{}", t.width("y")), n, params);
}
