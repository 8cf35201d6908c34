//! Normalisation to unit norm on a GPU.

use crate::cuda::{Cuda, Param, THREADS, Task, Work, parts};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let (n, kind) = (t.len("x"), t.kind("x"));
    let many = parts(n);
    let (sums, len) = (w.scratch(many * 8), Param::I64(n as i64));
    w.blocks(format!("normalize_parts_{kind}"), many, THREADS, vec![t.at("x"), sums.clone(), len.clone()]);
    w.each(format!("normalize_scale_{kind}"), n, vec![sums, t.at("x"), Param::I64(many as i64), len]);
}
