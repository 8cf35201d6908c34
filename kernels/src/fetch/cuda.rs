//! Weights from their files on a GPU: what is stored, and then the values over it.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let (n, values) = (t.len("y"), t.len("idx"));
    let entry = format!("fetch_{}_{}", t.word("type"), t.kind("y"));
    w.each(entry, n, vec![t.at("stored"), t.at("y"), Param::long(n)]);
    let params = vec![t.at("idx"), t.at("p"), t.at("y"), Param::long(values)];
    w.each(format!("fetch_over_{}", t.kind("y")), values, params);
}
