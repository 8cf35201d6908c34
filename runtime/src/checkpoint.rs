//! Checkpoints: what a run needs to go on as if it had never stopped.
//!
//! A checkpoint is a folder. It is written beside its place and renamed when it is complete and on the disk; `manifest.json`, which is
//! written last, holds the size and hash of every other file.

use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::executor::{Moments, SparseState};
use crate::files::{Disk, Real, hex, sha256_file};
use crate::tensor::{Tensor, View, encoded, read_safetensors};
use crate::train::{TrainOptions, Trainer};
use sara_kernels::DType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const STATE: &str = "state.safetensors";
const TRAINER: &str = "trainer.json";
const MANIFEST: &str = "manifest.json";
/// What is put behind the name of a checkpoint that is about to be replaced.
const BEFORE: &str = ".before";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    step: u64,
    model_sha256: String,
    selection_sha256: String,
    options: TrainOptions,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// Version of the format.
const VERSION: u32 = 2;

/// Writes `checkpoint-000500` into the run folder, deletes all but the newest `keep` checkpoints, and returns its path.
pub fn save(trainer: &Trainer, run: &Path, keep: usize) -> Result<PathBuf> {
    save_on(&Real, trainer, run, keep)
}

/// The same on a given disk. Whatever fails, the checkpoints that were there can still be loaded: a new one takes its name when it is
/// complete and on the disk, and an old one goes when the new one has been read again.
pub fn save_on(disk: &dyn Disk, trainer: &Trainer, run: &Path, keep: usize) -> Result<PathBuf> {
    let name = format!("checkpoint-{:06}", trainer.step);
    let (target, partial, before) =
        (run.join(&name), run.join(format!(".{name}.partial")), run.join(format!(".{name}{BEFORE}")));
    disk.create_folder(run)?;
    for stale in leftovers(run)? {
        disk.remove_folder(&stale)?;
    }
    disk.create_folder(&partial)?;
    let written =
        write_files(disk, trainer, &partial).and_then(|()| disk.sync_folder(&partial)).and_then(|()| check(&partial));
    if let Err(error) = written {
        // The error that led here is the one to report.
        let _ = disk.remove_folder(&partial);
        return Err(error);
    }
    if target.exists() {
        // Between the two renames the one before is found under its other name.
        disk.rename(&target, &before)?;
    }
    disk.rename(&partial, &target)?;
    disk.sync_folder(run)?;
    disk.remove_folder(&before)?;
    for (_, old) in all(run)?.into_iter().filter(|(step, _)| *step < trainer.step).skip(keep.max(1) - 1) {
        disk.remove_folder(&old)?;
    }
    Ok(target)
}

/// Folders that a save which did not end has left, apart from a checkpoint that it was about to replace.
fn leftovers(run: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(run).map_err(|e| Error::io(run, e))?;
    let stale = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|path| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let own = name.strip_prefix('.').and_then(|name| name.strip_suffix(BEFORE)).map(|name| run.join(name));
        name.starts_with(".checkpoint-") && (name.ends_with(".partial") || own.is_some_and(|own| own.exists()))
    });
    Ok(stale.collect())
}

fn write_files(disk: &dyn Disk, trainer: &Trainer, folder: &Path) -> Result<()> {
    let executor = &trainer.executor;
    let plan = executor.plan();
    let mut views = BTreeMap::new();
    for s in 0..plan.sparse.len() {
        let index = executor.indices(s);
        let [param, _] = executor.state(s);
        let (left, frozen) = executor.left(s);
        let (columns, numbers) = match executor.moments(s) {
            Moments::Single([moment1, moment2]) => {
                let columns = [("moment1", moment1), ("moment2", moment2)];
                (columns.map(|(name, values)| (name, View::vector(DType::F32, values))).to_vec(), [moment1, moment2])
            }
            Moments::Coded { codes: [moment1, moment2], absmax: [absmax1, absmax2] } => {
                let columns = vec![
                    ("moment1", View::vector(DType::U8, moment1)),
                    ("moment2", View::vector(DType::U8, moment2)),
                    ("absmax1", View::vector(DType::F32, absmax1)),
                    ("absmax2", View::vector(DType::F32, absmax2)),
                ];
                (columns, [absmax1, absmax2])
            }
        };
        if !numbers.iter().chain(&[param, frozen]).all(|values| values.iter().all(|v| v.is_finite())) {
            let name = &plan.weights[plan.sparse[s].weight as usize].name;
            return Err(Error::tensor(name, "holds NaN or infinity, and is not saved; lower the learning rate"));
        }
        for (column, view) in [
            ("index", View::vector(DType::U32, index)),
            ("value", View::vector(DType::F32, param)),
            ("frozen_index", View::vector(DType::U32, left)),
            ("frozen_value", View::vector(DType::F32, frozen)),
        ]
        .into_iter()
        .chain(columns)
        {
            views.insert(format!("{s}.{column}"), view);
        }
    }
    for (s, values) in trainer.ema.iter().flat_map(|ema| ema.values().iter().enumerate()) {
        views.insert(format!("{s}.ema"), View::vector(DType::F32, values));
    }
    let path = folder.join(STATE);
    let file = encoded(&path, &views, None)?;
    disk.write(&path, &mut |out| file.write(out))?;
    let saved = Saved {
        version: VERSION,
        step: trainer.step,
        model_sha256: plan.model.sha256.clone(),
        selection_sha256: selection_hash(trainer),
        options: trainer.options.clone(),
    };
    write_json(disk, &folder.join(TRAINER), &saved)?;
    let mut manifest = BTreeMap::new();
    for name in [STATE, TRAINER] {
        manifest.insert(name, entry(&folder.join(name))?);
    }
    write_json(disk, &folder.join(MANIFEST), &manifest)
}

/// That a checkpoint is complete and as it was written.
pub fn check(folder: &Path) -> Result<()> {
    let manifest: BTreeMap<String, Entry> = read_json(&folder.join(MANIFEST))?;
    for name in [STATE, TRAINER] {
        let path = folder.join(name);
        let wanted =
            manifest.get(name).ok_or_else(|| Error::file(folder.join(MANIFEST), format!("does not list {name}")))?;
        let found = entry(&path)?;
        if (found.bytes, &found.sha256) != (wanted.bytes, &wanted.sha256) {
            return Err(Error::file(path, "is damaged: size or hash differ from the manifest"));
        }
    }
    Ok(())
}

/// Restores a trainer of the same plan from a checkpoint folder. The options of the checkpoint replace the trainer's.
pub fn load(trainer: &mut Trainer, folder: &Path) -> Result<()> {
    check(folder)?;
    let path = folder.join(TRAINER);
    let saved: Saved = read_json(&path)?;
    if saved.version != VERSION {
        return Err(Error::file(path, format!("has version {}, and this sara reads {VERSION}", saved.version)));
    }
    if saved.model_sha256 != trainer.executor.plan().model.sha256 {
        return Err(Error::file(path, "model_sha256 differs: the checkpoint is of another model"));
    }
    if saved.selection_sha256 != selection_hash(trainer) {
        return Err(Error::file(
            path,
            "selection_sha256 differs: the checkpoint is of a plan with other trained entries, or of other weights",
        ));
    }
    let path = folder.join(STATE);
    let (tensors, _) = read_safetensors(&path)?;
    let moment = trainer.executor.plan().moment();
    if let Some((key, found)) = tensors.iter().find(|(key, t)| key.ends_with(".moment1") && t.dtype() != moment) {
        let (how, found) = (if moment == DType::U8 { "without" } else { "with" }, found.dtype().name());
        let differ = format!("tensor `{key}` is {found}, and the plan's moments are {}", moment.name());
        return Err(Error::file(path, format!("{differ}; compile {how} --use-8bit-adam to go on from here")));
    }
    let column = |s: usize, name: &str| {
        let key = format!("{s}.{name}");
        tensors.get(&key).map(Tensor::bytes).ok_or_else(|| Error::file(&path, format!("tensor `{key}` is missing")))
    };
    for s in 0..trainer.executor.plan().sparse.len() {
        let u32s = |name| column(s, name).map(|b| bytemuck::pod_collect_to_vec::<u8, u32>(&b));
        let f32s = |name| column(s, name).map(|b| bytemuck::pod_collect_to_vec::<u8, f32>(&b));
        let (left, left_values) = (u32s("frozen_index")?, f32s("frozen_value")?);
        let (index, values) = (u32s("index")?, f32s("value")?);
        let (single, codes, absmax);
        let moments = match trainer.executor.plan().use_8bit_adam {
            false => {
                single = [f32s("moment1")?, f32s("moment2")?];
                Moments::Single(single.each_ref().map(Vec::as_slice))
            }
            true => {
                codes = [column(s, "moment1")?, column(s, "moment2")?];
                absmax = [f32s("absmax1")?, f32s("absmax2")?];
                let (codes, absmax) = (codes.each_ref(), absmax.each_ref());
                Moments::Coded { codes: codes.map(Vec::as_slice), absmax: absmax.map(Vec::as_slice) }
            }
        };
        let state = SparseState { index: &index, values: &values, moments, left: &left, left_values: &left_values };
        trainer.executor.set_state(s, &state).map_err(|e| Error::file(&path, e.to_string()))?;
    }
    trainer.ema = match saved.options.ema_decay {
        None => None,
        Some(decay) => {
            let f32s = |s| column(s, "ema").map(|b| bytemuck::pod_collect_to_vec::<u8, f32>(&b));
            let values = (0..trainer.executor.plan().sparse.len()).map(f32s).collect::<Result<_>>()?;
            let misfit = || Error::file(&path, "the averages do not fit the plan");
            Some(Ema::restored(&trainer.executor, decay, values).ok_or_else(misfit)?)
        }
    };
    trainer.options = saved.options;
    trainer.step = saved.step;
    Ok(())
}

/// The checkpoints of a run and how many steps each has, that of most steps first. They may be damaged; [`check`] tells.
pub fn all(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = fs::read_dir(run).map_err(|e| Error::io(run, e))?;
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            // One that was about to be replaced stands in until there is the new one.
            let hidden = name.strip_prefix('.').and_then(|name| name.strip_suffix(BEFORE));
            if hidden.is_some_and(|own| run.join(own).exists()) {
                return None;
            }
            let step: u64 = hidden.unwrap_or(name).strip_prefix("checkpoint-")?.parse().ok()?;
            path.join(MANIFEST).is_file().then_some((step, path))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The checkpoint of a run that has the most steps, and how many.
pub fn latest(run: &Path) -> Result<Option<(u64, PathBuf)>> {
    Ok(all(run)?.into_iter().next())
}

/// Identity of what trains: names, positions, and the values in the base.
fn selection_hash(trainer: &Trainer) -> String {
    let plan = trainer.executor.plan();
    let mut hash = Sha256::new();
    for sparse in &plan.sparse {
        hash.update(plan.weights[sparse.weight as usize].name.as_bytes());
        hash.update([0]);
        hash.update(bytemuck::cast_slice::<u32, u8>(&sparse.index));
        hash.update(sparse.base_sha256.as_bytes());
    }
    hex(&hash.finalize())
}

fn entry(path: &Path) -> Result<Entry> {
    sha256_file(path).map(|(bytes, sha256)| Entry { bytes, sha256 })
}

fn write_json(disk: &dyn Disk, path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e.to_string()))?;
    disk.write(path, &mut |out| out.write_all(text.as_bytes()))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("{e}; the checkpoint is damaged or of another version")))
}
