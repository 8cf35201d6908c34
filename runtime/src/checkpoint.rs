//! Checkpoints: what a run needs to go on as if it had never stopped.
//!
//! A checkpoint is a folder. It is written beside its place and renamed when it is complete; `manifest.json` holds the size and
//! hash of every other file.

use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::executor::SparseState;
use crate::files::{hex, sha256_file, write_atomic};
use crate::tensor::{Tensor, View, read_safetensors, write_views};
use crate::train::{TrainOptions, Trainer};
use sara_kernels::DType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const STATE: &str = "state.safetensors";
const TRAINER: &str = "trainer.json";
const MANIFEST: &str = "manifest.json";

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

/// Writes `checkpoint-000500` into the run folder and returns its path.
pub fn save(trainer: &Trainer, run: &Path) -> Result<PathBuf> {
    let name = format!("checkpoint-{:06}", trainer.step);
    let (target, partial) = (run.join(&name), run.join(format!(".{name}.partial")));
    let clean = |path: &Path| match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    };
    clean(&partial)?;
    fs::create_dir_all(&partial).map_err(|e| Error::io(&partial, e))?;
    let result = write_files(trainer, &partial).and_then(|()| {
        clean(&target)?;
        fs::rename(&partial, &target).map_err(|e| Error::io(&target, e))?;
        File::open(run).and_then(|d| d.sync_all()).map_err(|e| Error::io(run, e))
    });
    if result.is_err() {
        // The error that led here is the one to report.
        let _ = clean(&partial);
    }
    result.map(|()| target)
}

fn write_files(trainer: &Trainer, folder: &Path) -> Result<()> {
    let executor = &trainer.executor;
    let plan = executor.plan();
    let mut views = BTreeMap::new();
    for s in 0..plan.sparse.len() {
        let index = executor.indices(s);
        let [param, _, moment1, moment2] = executor.state(s);
        let (left, frozen) = executor.left(s);
        for (column, view) in [
            ("index", View::vector(DType::U32, index)),
            ("value", View::vector(DType::F32, param)),
            ("moment1", View::vector(DType::F32, moment1)),
            ("moment2", View::vector(DType::F32, moment2)),
            ("frozen_index", View::vector(DType::U32, left)),
            ("frozen_value", View::vector(DType::F32, frozen)),
        ] {
            views.insert(format!("{s}.{column}"), view);
        }
    }
    for (s, values) in trainer.ema.iter().flat_map(|ema| ema.values().iter().enumerate()) {
        views.insert(format!("{s}.ema"), View::vector(DType::F32, values));
    }
    write_views(&folder.join(STATE), &views, None)?;
    let saved = Saved {
        version: VERSION,
        step: trainer.step,
        model_sha256: plan.model.sha256.clone(),
        selection_sha256: selection_hash(trainer),
        options: trainer.options.clone(),
    };
    write_json(&folder.join(TRAINER), &saved)?;
    let mut manifest = BTreeMap::new();
    for name in [STATE, TRAINER] {
        manifest.insert(name, entry(&folder.join(name))?);
    }
    write_json(&folder.join(MANIFEST), &manifest)
}

/// Restores a trainer of the same plan from a checkpoint folder. The options of the checkpoint replace the trainer's.
pub fn load(trainer: &mut Trainer, folder: &Path) -> Result<()> {
    let manifest: BTreeMap<String, Entry> = read_json(&folder.join(MANIFEST))?;
    for name in [STATE, TRAINER] {
        let path = folder.join(name);
        let wanted =
            manifest.get(name).ok_or_else(|| Error::file(folder.join(MANIFEST), format!("does not list {name}")))?;
        let found = entry(&path)?;
        if (found.bytes, &found.sha256) != (wanted.bytes, &wanted.sha256) {
            return Err(Error::file(
                path,
                "is damaged: size or hash differ from the manifest; use an older checkpoint",
            ));
        }
    }
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
    let column = |s: usize, name: &str| {
        let key = format!("{s}.{name}");
        tensors.get(&key).map(Tensor::bytes).ok_or_else(|| Error::file(&path, format!("tensor `{key}` is missing")))
    };
    for s in 0..trainer.executor.plan().sparse.len() {
        let u32s = |name| column(s, name).map(|b| bytemuck::pod_collect_to_vec::<u8, u32>(&b));
        let f32s = |name| column(s, name).map(|b| bytemuck::pod_collect_to_vec::<u8, f32>(&b));
        let (left, left_values) = (u32s("frozen_index")?, f32s("frozen_value")?);
        let (index, values, moment1, moment2) = (u32s("index")?, f32s("value")?, f32s("moment1")?, f32s("moment2")?);
        let state = SparseState {
            index: &index,
            values: &values,
            moments: [&moment1, &moment2],
            left: &left,
            left_values: &left_values,
        };
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

/// The complete checkpoint of a run that has the most steps, and how many.
pub fn latest(run: &Path) -> Result<Option<(u64, PathBuf)>> {
    let entries = fs::read_dir(run).map_err(|e| Error::io(run, e))?;
    let complete = entries.filter_map(|e| e.ok().map(|e| e.path())).filter_map(|path| {
        let step: u64 = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
        path.join(MANIFEST).is_file().then_some((step, path))
    });
    Ok(complete.max())
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

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e.to_string()))?;
    write_atomic(path, |out| out.write_all(text.as_bytes()))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("{e}; the checkpoint is damaged or of another version")))
}
