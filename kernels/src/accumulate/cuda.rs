//! Accumulation of gradients on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("g");
    w.each("accumulate", n, vec![t.at("d"), t.at("hyper"), t.at("g"), t.long("scale"), Param::I64(n as i64)]);
}
