//! Sums and products in place on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let params = vec![t.space("shape", ["b_strides"]), t.at("b"), t.at("y"), Param::long(n)];
    w.each(format!("{}_in_place_{}", t.word("op"), t.kind("y")), n, params);
}
