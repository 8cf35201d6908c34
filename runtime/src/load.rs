//! Reading the weights of a plan, and making sure that they are those that it was compiled from.

use crate::block::Block;
use crate::error::{Error, Result};
use crate::files::{hex, sha256_file};
use crate::plan::{ALIGN, Buffer, Place, Plan, Sparse, Stored, Weight};
use crate::source::Source;
use sara_kernels::{DType, Pool, Stored as _, for_stored};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The weights of a plan in memory.
pub(crate) struct Loaded {
    /// Offset and element type of each weight that a launch reads from memory, in `block`.
    pub(crate) at: Vec<Option<(usize, DType)>>,
    /// Those weights.
    pub(crate) block: Block,
    /// Values of the entries of all sparse weights in `f32`, one weight after the other. A block, so that their memory goes back at once.
    pub(crate) values: Block,
}

/// Reads the weights that launches read from memory, and of each sparse weight the values of its entries. The `.onnx` file must be
/// the plan's, and each weight of which entries train must have the bytes by which they were chosen.
pub(crate) fn load(plan: &Plan, source: &Source, pool: &Pool) -> Result<Loaded> {
    let model = &source.model;
    let (bytes, sha256) = sha256_file(model)?;
    if bytes != plan.model.bytes || sha256 != plan.model.sha256 {
        return Err(Error::file(model, "is not the model that the plan was compiled from; compile the plan again"));
    }
    let mut at = vec![None; plan.weights.len()];
    let mut end = 0;
    for (w, dtype) in resident(&plan.buffers) {
        at[w] = Some((end, dtype));
        end += room(&plan.weights[w], dtype);
    }
    let mut files: HashMap<&str, (PathBuf, File)> = HashMap::new();
    for w in &plan.weights {
        if !files.contains_key(w.file.as_str()) {
            files.insert(&w.file, source.open(&w.file)?);
        }
    }
    let entries = plan.sparse.iter().map(|s| s.index.len()).sum();
    let mut values = Block::new(entries * size_of::<f32>())?;
    let mut rest: &mut [f32] = values.view_mut(0, entries);
    let mut sparse: HashMap<usize, Mutex<(&Sparse, &mut [f32])>> = HashMap::new();
    for s in &plan.sparse {
        let (own, others) = rest.split_at_mut(s.index.len());
        sparse.insert(s.weight as usize, Mutex::new((s, own)));
        rest = others;
    }
    let mut block = Block::new(end)?;
    let mut rest = block.bytes_mut();
    let mut places = Vec::with_capacity(plan.weights.len());
    for (w, at) in plan.weights.iter().zip(&at) {
        let (own, others) = rest.split_at_mut(at.map_or(0, |(_, dtype)| room(w, dtype)));
        places.push(Mutex::new(own));
        rest = others;
    }
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    pool.run(plan.weights.len(), |i, scratch| {
        let w = &plan.weights[i];
        let mut sparse = sparse.get(&i).map(|s| s.lock().unwrap_or_else(PoisonError::into_inner));
        if at[i].is_none() && sparse.is_none() {
            return;
        }
        let sparse = sparse.as_mut().map(|s| (s.0, &mut *s.1));
        let (path, file) = &files[w.file.as_str()];
        let mut place = places[i].lock().unwrap_or_else(PoisonError::into_inner);
        let memory = at[i].map(|(_, dtype)| (&mut **place, dtype));
        if let Err(error) = read(w, path, file, sparse, memory, scratch) {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                *failed = Some((i, error));
            }
        }
    });
    if let Some((_, error)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    drop((sparse, places));
    Ok(Loaded { at, block, values })
}

/// The weights that launches or ports read from memory, in ascending order, and the types in which they lie there.
pub(crate) fn resident(buffers: &[Buffer]) -> BTreeMap<usize, DType> {
    let weight = |b: &Buffer| if let Place::Weight(w) = b.place { Some((w as usize, b.dtype)) } else { None };
    buffers.iter().filter_map(weight).collect()
}

/// Bytes that a weight takes in the block.
pub(crate) fn room(w: &Weight, dtype: DType) -> usize {
    (w.len() as usize * dtype.size()).next_multiple_of(ALIGN as usize)
}

/// Elements that are read at once: few enough that they are still in the cache when they are hashed and widened.
const CHUNK: usize = 1 << 16;

/// Reads and widens one weight, into `memory` if it is to stay there. What is sparse must have the bytes by which its entries were
/// chosen; their values are written beside it.
fn read(
    w: &Weight,
    path: &Path,
    file: &File,
    sparse: Option<(&Sparse, &mut [f32])>,
    memory: Option<(&mut [u8], DType)>,
    scratch: &mut [u8],
) -> Result<()> {
    let (mut whole, mut halves) = match memory {
        None => (None, None),
        Some((memory, half)) if half.is_half() => (None, Some((memory, half))),
        Some((memory, _)) => (Some(memory), None),
    };
    let mut hash = Sha256::new();
    let (len, from) = (w.len() as usize, w.stored.size());
    let to = w.stored.loaded().size();
    let (raw, spare) = scratch.split_at_mut(CHUNK * size_of::<f64>());
    let (sparse, mut values) = sparse.map_or((None, &mut [][..]), |(s, values)| (Some(s), values));
    let mut positions = sparse.map_or(&[][..], |s| &s.index);
    for first in (0..len).step_by(CHUNK) {
        let count = CHUNK.min(len - first);
        let offset = w.offset + (first * from) as u64;
        let out = match &mut whole {
            Some(whole) => &mut whole[first * to..(first + count) * to],
            None => &mut spare[..count * to],
        };
        let bytes = match w.stored {
            Stored::Plain(_) => &mut *out,
            Stored::F16 | Stored::Bf16 => &mut raw[..count * from],
        };
        file.read_exact_at(bytes, offset).map_err(|e| short(w, path, file, e))?;
        if sparse.is_some() {
            hash.update(&*bytes);
        }
        let widen: Option<fn(u16) -> f32> = match w.stored {
            Stored::Plain(_) => None,
            Stored::F16 => Some(|bits| half::f16::from_bits(bits).to_f32()),
            Stored::Bf16 => Some(|bits| half::bf16::from_bits(bits).to_f32()),
        };
        if let Some(widen) = widen {
            let halves = raw[..count * from].chunks_exact(2);
            for (v, b) in bytemuck::cast_slice_mut::<u8, f32>(out).iter_mut().zip(halves) {
                *v = widen(u16::from_le_bytes([b[0], b[1]]));
            }
        }
        let (here, later) = positions.split_at(positions.partition_point(|i| (*i as usize) < first + count));
        positions = later;
        if !here.is_empty() {
            let elements: &[f32] = bytemuck::cast_slice(out);
            let (own, others) = std::mem::take(&mut values).split_at_mut(here.len());
            own.iter_mut().zip(here).for_each(|(v, i)| *v = elements[*i as usize - first]);
            values = others;
        }
        if let Some((memory, half)) = &mut halves {
            let elements: &[f32] = bytemuck::cast_slice(out);
            for_stored!(*half, S => {
                let halves = &mut bytemuck::cast_slice_mut::<u8, S>(memory)[first..first + count];
                halves.iter_mut().zip(elements).for_each(|(half, v)| *half = S::narrow(*v));
            });
        }
    }
    if sparse.is_some_and(|s| s.base_sha256 != hex(&hash.finalize())) {
        return Err(Error::file(
            path,
            format!(
                "has other values of weight `{}` than the plan was compiled from, so that other entries would be trained than were chosen; put the file of then back, or compile the plan again",
                w.name
            ),
        ));
    }
    Ok(())
}

fn short(w: &Weight, path: &Path, file: &File, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::UnexpectedEof {
        return Error::io(path, error);
    }
    let found = file.metadata().map_or(0, |m| m.len());
    let end = w.offset + w.stored_bytes();
    Error::file(path, format!("ends at byte {found}, and weight `{}` needs bytes up to {end}; fetch it anew", w.name))
}
