//! Selection on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};
use crate::fuse::Each;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let space = t.space("shape", ["cond_strides", "a_strides", "b_strides"]);
    let params = vec![space, t.at("cond"), t.at("a"), t.at("b"), t.at("y"), Param::I64(n as i64)];
    w.each(format!("select_{}", t.width("y")), n, params);
}

pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    let operands = [("cond", "cond_strides"), ("a", "a_strides"), ("b", "b_strides")];
    let reads = operands.map(|(name, strides)| t.read_over(name, strides)).to_vec();
    Some(t.each(reads, "y", "$0 ? $1 : $2".to_owned()))
}
