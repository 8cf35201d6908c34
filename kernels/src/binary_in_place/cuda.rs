//! Sums and products in place on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};
use crate::fuse::Each;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let params = vec![t.space("shape", ["b_strides"]), t.at("b"), t.at("y"), Param::long(n)];
    w.each(format!("{}_in_place_{}", t.word("op"), t.kind("y")), n, params);
}

pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    let sign = if t.word("op") == "add" { "+" } else { "*" };
    Some(t.each(vec![t.read("y"), t.read_over("b", "b_strides")], "y", format!("$0 {sign} $1")))
}
