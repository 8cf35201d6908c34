//! Softmax on a GPU: a block for each line if its elements lie side by side, else a thread.

use crate::cuda::{Cuda, Param, THREADS, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let (outer, n, inner) = (t.int("outer"), t.int("n"), t.int("inner"));
    let kind = t.kind("y");
    if n == 0 {
        return;
    }
    if inner == 1 {
        w.blocks(format!("softmax_blocks_{kind}"), outer, 128, vec![t.at("x"), t.at("y"), t.long("n")]);
        return;
    }
    let lines = outer * inner;
    let params = vec![t.at("x"), t.at("y"), t.long("n"), t.long("inner"), Param::I64(lines as i64)];
    w.blocks(format!("softmax_threads_{kind}"), lines.div_ceil(THREADS as usize), THREADS, params);
}
