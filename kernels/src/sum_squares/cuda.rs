//! Sum of squares on a GPU.

use crate::cuda::{Cuda, Param, THREADS, Task, Work, parts};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("g");
    let many = parts(n);
    let sums = w.scratch(many * 8);
    w.blocks("sum_squares_parts", many, THREADS, vec![t.at("g"), sums.clone(), Param::I64(n as i64)]);
    let slot = t.from("sums", t.int("slot"));
    w.blocks("sum_squares_finish", 1, THREADS, vec![sums, slot, Param::I64(many as i64)]);
}
