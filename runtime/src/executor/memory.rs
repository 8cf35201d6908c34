//! How much memory an executor takes, and which files it reads from.

use crate::error::{Error, Result};
use crate::load::{resident, room};
use crate::map::Map;
use crate::plan::{self, ALIGN, Place, Plan, Weight};
use crate::source::Source;
use sara_kernels::hyper;
use std::collections::BTreeSet;

/// Maps the files from which launches read weights.
pub(super) fn maps(plan: &Plan, source: &Source) -> Result<Vec<(String, Map)>> {
    let read = plan.buffers.iter().filter_map(|b| if let Place::File(w) = b.place { Some(w) } else { None });
    let weights: Vec<&Weight> = read.map(|w| &plan.weights[w as usize]).collect();
    let names: BTreeSet<&str> = weights.iter().map(|w| w.file.as_str()).collect();
    let mut maps = Vec::new();
    for name in names {
        let map = Map::open(source, name)?;
        let len = map.as_ref().len() as u64;
        let ends = |w: &&&Weight| w.offset.checked_add(w.stored_bytes()).is_none_or(|end| end > len);
        if let Some(w) = weights.iter().filter(|w| w.file == name).find(ends) {
            let reason = format!("ends at byte {len}, within weight `{}`; fetch it anew", w.name);
            return Err(Error::file(source.path(name), reason));
        }
        maps.push((name.to_owned(), map));
    }
    Ok(maps)
}

/// Bytes that an executor of this plan takes, by kind: weights, mapped pages, sparse state, constants, arena, scratch of the threads.
pub fn memory(plan: &Plan, threads: usize) -> [(&'static str, u64); 6] {
    let trained = plan.sparse.iter().map(|s| s.index.len());
    memory_by_kind(&plan.weights, &plan.buffers, trained, plan.constants.len(), plan.arena_bytes, threads)
}

/// The same for a plan with these weights, buffers, numbers of trained entries, bytes of constants and of the arena.
pub fn memory_by_kind(
    weights: &[Weight],
    buffers: &[plan::Buffer],
    trained: impl Iterator<Item = usize>,
    constants: usize,
    arena: u64,
    threads: usize,
) -> [(&'static str, u64); 6] {
    let aligned = |bytes: u64| bytes.next_multiple_of(ALIGN);
    let resident = resident(buffers).into_iter().map(|(w, dtype)| room(&weights[w], dtype) as u64).sum();
    let files = buffers.iter().filter(|b| matches!(b.place, Place::File(_)));
    // Five arrays of four bytes; the plan keeps the initial index besides.
    let state = trained.map(|n| n as u64 * 4).map(|n| aligned(n) * 5 + n).sum::<u64>();
    [
        ("weights", resident),
        ("mapped pages", files.map(|b| b.len).max().unwrap_or(0)),
        ("sparse state", state + aligned(hyper::LEN as u64 * 4)),
        ("constants", constants as u64 * 2),
        ("arena", arena),
        ("scratch", (threads.max(1) * sara_kernels::SCRATCH_BYTES) as u64),
    ]
}
