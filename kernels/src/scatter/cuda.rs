//! Writing entries on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("idx");
    w.each(format!("scatter_{}", t.width("p")), n, vec![t.at("p"), t.at("idx"), t.at("y"), Param::I64(n as i64)]);
}
