//! Adapters: the difference that training made, as a small file.
//!
//! One safetensors file. For each weight, under its canonical path (the node that uses it, which is stable across exports): the
//! positions `PATH.index` (`u32`, ascending) and the differences `PATH.delta` (`f32`). The metadata holds the hash of each base
//! tensor, so that an adapter is never applied to another model.

use crate::error::{Error, Result};
use crate::files::sha256;
use crate::plan::{Plan, Weight};
use crate::source::Source;
use crate::tensor::{Metadata, Tensor, View, read_safetensors, write_views};
use sara_kernels::DType;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

const FORMAT: &str = "sara-adapter";
const VERSION: &str = "1";
const INDEX: &str = ".index";
const DELTA: &str = ".delta";

/// A sparse difference to one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// Flat positions, ascending.
    pub index: Vec<u32>,
    /// What is added there.
    pub delta: Vec<f32>,
    /// SHA-256 of the base weight's bytes as they lie in its file.
    pub base_sha256: String,
}

/// Differences to the weights of a model, by canonical path.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Adapter {
    /// The differences.
    pub deltas: BTreeMap<String, Delta>,
    /// Text that goes with them: base model, threshold, step.
    pub metadata: BTreeMap<String, String>,
}

/// A weight's number in a table of weights, positions in it and their new values.
pub type Tuned = (usize, Vec<u32>, Vec<f32>);

impl Adapter {
    /// Writes the adapter.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut metadata: Metadata = self.metadata.clone().into_iter().collect();
        metadata.insert("format".into(), FORMAT.into());
        metadata.insert("version".into(), VERSION.into());
        let mut views = BTreeMap::new();
        for (key, delta) in &self.deltas {
            metadata.insert(format!("sha256:{key}"), delta.base_sha256.clone());
            views.insert(format!("{key}{INDEX}"), View::vector(DType::U32, &delta.index));
            views.insert(format!("{key}{DELTA}"), View::vector(DType::F32, &delta.delta));
        }
        write_views(path, &views, Some(metadata))
    }

    /// Reads and checks an adapter.
    pub fn read(path: &Path) -> Result<Adapter> {
        let (tensors, metadata) = read_safetensors(path)?;
        let get = |key: &str| metadata.get(key).map(String::as_str);
        if get("format") != Some(FORMAT) {
            return Err(Error::file(
                path,
                "is not an adapter of sara: its metadata does not say `format: sara-adapter`",
            ));
        }
        if get("version") != Some(VERSION) {
            let found = get("version").unwrap_or("none");
            return Err(Error::file(path, format!("has adapter version {found}, and this sara reads {VERSION}")));
        }
        let mut adapter = Adapter::default();
        for (name, tensor) in &tensors {
            let bad = |reason: &str| Error::file(path, format!("tensor `{name}` {reason}"));
            if name.ends_with(DELTA) {
                continue;
            }
            let key = name.strip_suffix(INDEX).ok_or_else(|| bad("is neither an index nor a delta"))?;
            let (Tensor::U32(index), Some(Tensor::F32(delta))) = (tensor, tensors.get(&format!("{key}{DELTA}"))) else {
                return Err(bad("is not u32, or has no delta of f32 beside it"));
            };
            let (index, delta): (Vec<u32>, Vec<f32>) =
                (index.iter().copied().collect(), delta.iter().copied().collect());
            if index.len() != delta.len() || !index.is_sorted_by(|a, b| a < b) {
                return Err(bad("does not ascend, or is not as long as its delta"));
            }
            if delta.iter().any(|d| !d.is_finite()) {
                return Err(bad("has a delta that is not finite"));
            }
            let base = get(&format!("sha256:{key}")).ok_or_else(|| bad("has no hash of its base in the metadata"))?;
            adapter.deltas.insert(key.to_owned(), Delta { index, delta, base_sha256: base.to_owned() });
        }
        if tensors.len() != 2 * adapter.deltas.len() {
            return Err(Error::file(path, "has deltas without positions"));
        }
        let own = |key: &str| key == "format" || key == "version" || key.starts_with("sha256:");
        adapter.metadata = metadata.into_iter().filter(|(k, _)| !own(k)).collect();
        Ok(adapter)
    }

    /// The sum of scaled adapters of the same base.
    pub fn combine(parts: &[(Adapter, f32)]) -> Result<Adapter> {
        let mut sum: BTreeMap<String, (BTreeMap<u32, f32>, String)> = BTreeMap::new();
        for (adapter, scale) in parts {
            for (key, delta) in &adapter.deltas {
                let entry = sum.entry(key.clone()).or_insert_with(|| (BTreeMap::new(), delta.base_sha256.clone()));
                if entry.1 != delta.base_sha256 {
                    return Err(Error::tensor(key, "the adapters are for different bases"));
                }
                for (i, d) in delta.index.iter().zip(&delta.delta) {
                    *entry.0.entry(*i).or_insert(0.0) += scale * d;
                }
            }
        }
        let deltas = sum.into_iter().map(|(key, (values, base_sha256))| {
            let (index, delta) = values.into_iter().unzip();
            (key, Delta { index, delta, base_sha256 })
        });
        let metadata = parts.first().map(|(a, _)| a.metadata.clone()).unwrap_or_default();
        Ok(Adapter { deltas: deltas.collect(), metadata })
    }

    /// New values of the weights that the adapter changes: the weight's number in `weights`, positions and values. Refuses an adapter
    /// for another base.
    pub fn apply(&self, source: &Source, weights: &[Weight]) -> Result<Vec<Tuned>> {
        let mut patches = Vec::new();
        for (key, delta) in &self.deltas {
            let found = weights.iter().position(|w| w.path == *key);
            let at = found
                .ok_or_else(|| Error::tensor(key, "the adapter is for another base: the model has no such weight"))?;
            let weight = &weights[at];
            if weight.stored.loaded() != DType::F32 {
                return Err(Error::tensor(
                    key,
                    format!(
                        "the adapter is for real numbers of up to 32 bits, and the model's weight is {}; use the base that it was made for",
                        weight.stored.loaded()
                    ),
                ));
            }
            let bytes = stored_bytes(source, weight)?;
            if sha256(&bytes) != delta.base_sha256 {
                return Err(Error::tensor(key, "the adapter is for another base: the model's weight has other values"));
            }
            let len = weight.len();
            if delta.index.last().is_some_and(|i| u64::from(*i) >= len) {
                return Err(Error::tensor(
                    key,
                    format!("the adapter has positions beyond the weight's {len} elements"),
                ));
            }
            let mut room = Vec::new();
            let base = weight.stored.values(&bytes, &mut room);
            let values = delta.index.iter().zip(&delta.delta).map(|(i, d)| base[*i as usize] + d).collect();
            patches.push((at, delta.index.clone(), values));
        }
        Ok(patches)
    }
}

/// The adapter that turns the base into `values`: for each sparse weight of a plan, the values of its entries in order.
///
/// A difference is rounded to `f32`, so base plus difference can miss the value by half a unit in the last place of the base. What
/// is deployed, as a model or as an adapter, is base plus difference.
pub fn between(plan: &Plan, source: &Source, values: &[Vec<f32>]) -> Result<Adapter> {
    let mut adapter = Adapter::default();
    for (sparse, values) in plan.sparse.iter().zip(values) {
        let weight = &plan.weights[sparse.weight as usize];
        let bytes = stored_bytes(source, weight)?;
        let base_sha256 = sha256(&bytes);
        if base_sha256 != sparse.base_sha256 {
            return Err(Error::file(
                source.path(&weight.file),
                format!("has other values of weight `{}` than were trained; put the file of then back", weight.name),
            ));
        }
        let mut room = Vec::new();
        let base = weight.stored.values(&bytes, &mut room);
        let mut delta = Delta { index: Vec::new(), delta: Vec::new(), base_sha256 };
        for (i, value) in sparse.index.iter().zip(values) {
            let from = base[*i as usize];
            if from != *value {
                delta.index.push(*i);
                delta.delta.push(*value - from);
            }
        }
        adapter.deltas.insert(weight.path.clone(), delta);
    }
    Ok(adapter)
}

fn stored_bytes(source: &Source, weight: &Weight) -> Result<Vec<u8>> {
    let (path, file) = source.open(&weight.file)?;
    let mut bytes = vec![0; weight.stored_bytes() as usize];
    file.read_exact_at(&mut bytes, weight.offset).map_err(|e| Error::io(&path, e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Stored;

    fn weight(name: &str, offset: u64) -> Weight {
        let stored = Stored::Plain(DType::F32);
        Weight {
            name: name.into(),
            path: format!("/{name}/MatMul:1"),
            shape: vec![2, 2],
            stored,
            file: String::new(),
            offset,
        }
    }

    fn model(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("m.onnx");
        let values = [1.0f32, 2.0, 3.0, 4.0, 0.1, 0.2, 0.3, 0.4];
        std::fs::write(&path, bytemuck::cast_slice(&values)).unwrap();
        path
    }

    fn adapter(path: &Path) -> Adapter {
        let bytes = stored_bytes(&Source::new(path), &weight("a", 0)).unwrap();
        let delta = Delta { index: vec![1, 3], delta: vec![0.5, -1.0], base_sha256: sha256(&bytes) };
        Adapter { deltas: BTreeMap::from([("/a/MatMul:1".to_owned(), delta)]), metadata: BTreeMap::new() }
    }

    #[test]
    fn an_adapter_survives_its_file_and_applies() {
        let folder = tempfile::tempdir().unwrap();
        let path = model(folder.path());
        let made = adapter(&path);
        let file = folder.path().join("a.safetensors");
        made.write(&file).unwrap();
        let read = Adapter::read(&file).unwrap();
        assert_eq!(read, made);
        let weights = [weight("b", 16), weight("a", 0)];
        assert_eq!(read.apply(&Source::new(&path), &weights).unwrap(), [(1, vec![1, 3], vec![2.5, 3.0])]);
        let twice = Adapter::combine(&[(read.clone(), 2.0), (read, -0.5)]).unwrap();
        assert_eq!(twice.apply(&Source::new(&path), &weights).unwrap(), [(1, vec![1, 3], vec![2.75, 2.5])]);
    }

    #[test]
    fn another_base_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = model(folder.path());
        let made = adapter(&path);
        for weights in [vec![weight("c", 0)], vec![weight("a", 16)]] {
            let error = made.apply(&Source::new(&path), &weights).unwrap_err().to_string();
            assert!(error.contains("/a/MatMul:1") && error.contains("another base"), "{error}");
        }
    }

    /// A file that was written by hand: the hash fits, and the positions fit the bytes but not the elements.
    #[test]
    fn a_weight_of_another_type_or_length_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = model(folder.path());
        let double = Weight { shape: vec![2], stored: Stored::Plain(DType::F64), ..weight("a", 0) };
        let mut made = adapter(&path);
        let error = made.apply(&Source::new(&path), &[double]).unwrap_err().to_string();
        assert!(error.contains("/a/MatMul:1") && error.contains("f64"), "{error}");
        made.deltas.values_mut().for_each(|d| d.index = vec![1, 4]);
        let error = made.apply(&Source::new(&path), &[weight("a", 0)]).unwrap_err().to_string();
        assert!(error.contains("beyond the weight's 4 elements"), "{error}");
    }

    #[test]
    fn damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = model(folder.path());
        let file = folder.path().join("a.safetensors");
        let mut made = adapter(&path);
        made.deltas.values_mut().for_each(|d| d.index = vec![3, 1]);
        made.write(&file).unwrap();
        assert!(Adapter::read(&file).unwrap_err().to_string().contains("does not ascend"));
        write_views(&file, &BTreeMap::new(), None).unwrap();
        assert!(Adapter::read(&file).unwrap_err().to_string().contains("not an adapter"));
    }
}
