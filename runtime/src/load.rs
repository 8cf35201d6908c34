//! Reading the weights of a plan, and making sure that they are those that it was compiled from.

use crate::block::Block;
use crate::error::{Error, Result};
use crate::files::{hex, sha256_file};
use crate::plan::{ALIGN, Plan, Stored, Weight};
use crate::source::Source;
use sara_kernels::Pool;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Reads all weights into one block. Returns each weight's offset. The `.onnx` file must be the plan's, and each weight of which
/// entries train must have the bytes by which they were chosen.
pub(crate) fn load(plan: &Plan, source: &Source, pool: &Pool) -> Result<(Vec<usize>, Block)> {
    let model = &source.model;
    let (bytes, sha256) = sha256_file(model)?;
    if bytes != plan.model.bytes || sha256 != plan.model.sha256 {
        return Err(Error::file(model, "is not the model that the plan was compiled from; compile the plan again"));
    }
    let mut at = Vec::with_capacity(plan.weights.len());
    let mut end = 0;
    for w in &plan.weights {
        at.push(end);
        end += room(w);
    }
    let mut files: HashMap<&str, (PathBuf, File)> = HashMap::new();
    for w in &plan.weights {
        if !files.contains_key(w.file.as_str()) {
            files.insert(&w.file, source.open(&w.file)?);
        }
    }
    let mut bases: HashMap<usize, &str> = HashMap::new();
    for sparse in &plan.sparse {
        bases.insert(sparse.weight as usize, &sparse.base_sha256);
    }
    let mut block = Block::new(end)?;
    let mut rest = block.bytes_mut();
    let mut places = Vec::with_capacity(plan.weights.len());
    for w in &plan.weights {
        let (own, others) = rest.split_at_mut(room(w));
        places.push(Mutex::new(own));
        rest = others;
    }
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    pool.run(plan.weights.len(), |i, scratch| {
        let w = &plan.weights[i];
        let (path, file) = &files[w.file.as_str()];
        let mut place = places[i].lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = read(w, path, file, bases.get(&i).copied(), &mut place, scratch) {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                *failed = Some((i, error));
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok((at, block)),
    }
}

/// Bytes that a weight takes in the block.
fn room(w: &Weight) -> usize {
    (w.len() as usize * w.stored.loaded().size()).next_multiple_of(ALIGN as usize)
}

/// Elements that are read at once: few enough that they are still in the cache when they are hashed and widened.
const CHUNK: usize = 1 << 16;

/// Reads and widens one weight. `base` is the hash that its bytes must have.
fn read(w: &Weight, path: &Path, file: &File, base: Option<&str>, place: &mut [u8], scratch: &mut [u8]) -> Result<()> {
    let mut hash = Sha256::new();
    let (len, from) = (w.len() as usize, w.stored.size());
    let to = w.stored.loaded().size();
    for first in (0..len).step_by(CHUNK) {
        let count = CHUNK.min(len - first);
        let offset = w.offset + (first * from) as u64;
        let out = &mut place[first * to..(first + count) * to];
        let bytes = match w.stored {
            Stored::Plain(_) => &mut *out,
            Stored::F16 | Stored::Bf16 => &mut scratch[..count * from],
        };
        file.read_exact_at(bytes, offset).map_err(|e| short(w, path, file, e))?;
        if base.is_some() {
            hash.update(&*bytes);
        }
        let widen: fn(u16) -> f32 = match w.stored {
            Stored::Plain(_) => continue,
            Stored::F16 => |bits| half::f16::from_bits(bits).to_f32(),
            Stored::Bf16 => |bits| half::bf16::from_bits(bits).to_f32(),
        };
        let halves = scratch[..count * from].chunks_exact(2);
        for (v, b) in bytemuck::cast_slice_mut::<u8, f32>(out).iter_mut().zip(halves) {
            *v = widen(u16::from_le_bytes([b[0], b[1]]));
        }
    }
    if base.is_some_and(|base| base != hex(&hash.finalize())) {
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
