//! Reductions on a GPU: a thread for each result where neighbours lie side by side or are short, else a block; what is long
//! and has few results is cut into parts.

use super::cpu::split;
use crate::cuda::{Cuda, Param, THREADS, Task, Work, code, space};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// The reductions, in the order of the list in `kernel.cu`.
pub(super) const WORDS: &[&str] = &["sum", "mean", "prod", "max", "min"];
/// Terms of a part at least.
const PART: usize = 1 << 10;
/// Threads that are enough to fill a device.
const ENOUGH: usize = 1 << 16;

fn plan(t: &Task<'_>, w: &mut Work) {
    let [kept, reduced] = split(t);
    let (results, count) = (t.len("y"), reduced.len());
    let op = code(WORDS, t.word("op"));
    let sizes = [Param::I64(results as i64), Param::I64(count as i64)];
    let kind = t.kind("x");
    if !t.dtype("x").is_float() {
        let mut params = vec![op, space(&kept), space(&reduced), t.at("x"), t.at("y")];
        params.extend(sizes);
        w.blocks(format!("reduce_{kind}"), results.div_ceil(THREADS as usize), THREADS, params);
        return;
    }
    let threads = kept.inner().strides == [1] || count < 64;
    let at_once = if threads { results } else { results * THREADS as usize };
    let least = if threads { PART / 16 } else { PART };
    let parts = (count / least).min(ENOUGH / at_once.max(1)).clamp(1, 1 << 10);
    let scratch = if parts > 1 { w.scratch(parts * results * 8) } else { Param::Scratch(0) };
    let mut params = vec![op.clone(), space(&kept), space(&reduced), t.at("x"), t.at("y"), scratch.clone()];
    params.extend(sizes.clone());
    let (entry, blocks) = if threads { ("threads", results.div_ceil(THREADS as usize)) } else { ("blocks", results) };
    w.launch(format!("reduce_{entry}_{kind}"), [blocks, parts, 1], THREADS, params);
    if parts > 1 {
        let mut params = vec![op, scratch, t.at("y"), Param::I64(parts as i64)];
        params.extend(sizes);
        w.blocks(format!("reduce_finish_{kind}"), results.div_ceil(THREADS as usize), THREADS, params);
    }
}
