//! How much memory an executor takes, and which files it reads from.

use crate::error::{Error, Result};
use crate::load::{resident, room};
use crate::map::Map;
use crate::plan::{self, ALIGN, Place, Plan, Weight};
use crate::source::Source;
use sara_kernels::hyper;
use sara_kernels::sparse_adamw_8bit::BLOCK;
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
    let state = state_bytes(trained, plan.use_8bit_adam);
    memory_by_kind(&plan.weights, &plan.buffers, state, plan.constants.len(), plan.arena_bytes, threads)
}

/// Bytes that one weight's positions, values or gradients, one of its moments, and the scales of that take.
pub(super) fn state(trained: usize, use_8bit_adam: bool) -> [usize; 3] {
    match use_8bit_adam {
        true => [trained * 4, trained, trained.div_ceil(BLOCK) * 4],
        false => [trained * 4, trained * 4, 0],
    }
}

/// Bytes of the state of weights with these numbers of trained entries.
pub fn state_bytes(trained: impl Iterator<Item = usize>, use_8bit_adam: bool) -> u64 {
    let aligned = |bytes: usize| (bytes as u64).next_multiple_of(ALIGN);
    let own = |n: usize| {
        let [bytes, moment, absmax] = state(n, use_8bit_adam);
        // The plan keeps the initial index besides.
        3 * aligned(bytes) + 2 * (aligned(moment) + aligned(absmax)) + bytes as u64
    };
    trained.map(own).sum::<u64>() + aligned(hyper::LEN * 4)
}

/// The same for a plan with these weights, buffers, bytes of sparse state, of constants and of the arena.
pub fn memory_by_kind(
    weights: &[Weight],
    buffers: &[plan::Buffer],
    state: u64,
    constants: usize,
    arena: u64,
    threads: usize,
) -> [(&'static str, u64); 6] {
    let resident = resident(buffers).into_iter().map(|(w, dtype)| room(&weights[w], dtype) as u64).sum();
    let files = buffers.iter().filter(|b| matches!(b.place, Place::File(_)));
    [
        ("weights", resident),
        ("mapped pages", files.map(|b| b.len).max().unwrap_or(0)),
        ("sparse state", state),
        ("constants", constants as u64 * 2),
        ("arena", arena),
        ("scratch", (threads.max(1) * sara_kernels::SCRATCH_BYTES) as u64),
    ]
}
