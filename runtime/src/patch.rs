//! Export by patching bytes: the model's files are copied and the tuned elements overwritten, so everything else, known or
//! unknown, survives.

use crate::plan::{Stored, Weight};
use crate::source::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// New values for some elements of a weight.
#[derive(Clone, Debug)]
pub struct Patch<'a> {
    /// The weight.
    pub weight: &'a Weight,
    /// Flat positions, ascending.
    pub index: &'a [u32],
    /// New values, one for each position; rounded to the type that the file stores.
    pub values: &'a [f32],
}

/// Why an export failed. The `.onnx` file in its place is not replaced, and no temporary file stays. External files are replaced only
/// when all files are complete; if one of them cannot be renamed, those before it are there, and an earlier export of the same
/// names is then a mixture.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The export would overwrite the model itself.
    #[error("{}: exporting here would overwrite the original's {file}; choose another folder", path.display())]
    Overwrites {
        /// Where the export was to go.
        path: PathBuf,
        /// The file of the original.
        file: String,
    },
    /// A file of the model could not be opened, or may not be read.
    #[error(transparent)]
    Source(#[from] crate::Error),
    /// A weight is stored in a type that cannot be trained.
    #[error("weight `{0}` is not stored as real numbers")]
    Type(String),
}

/// Copies `model` and its external files to `output` and the folder around it, with `patches` applied.
///
/// `external` lists the external files, relative to the model's folder; they keep their names, because the model names them.
pub fn export(
    model: &Source,
    external: &BTreeSet<String>,
    patches: &[Patch<'_>],
    output: &Path,
) -> Result<(), PatchError> {
    let to = output.parent().unwrap_or(Path::new(""));
    let mut by_file: BTreeMap<&str, Vec<&Patch<'_>>> = BTreeMap::new();
    by_file.entry("").or_default();
    for file in external {
        by_file.entry(file).or_default();
    }
    for patch in patches {
        by_file.entry(&patch.weight.file).or_default().push(patch);
    }
    fs::create_dir_all(if to.as_os_str().is_empty() { Path::new(".") } else { to })
        .map_err(|source| io_error(to, source))?;
    let mut done = Vec::new();
    for (file, patches) in by_file {
        let (source, target) = (model.path(file), if file.is_empty() { output.to_owned() } else { to.join(file) });
        if same_file(&source, &target) {
            let file = source.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
            return Err(PatchError::Overwrites { path: output.to_owned(), file });
        }
        done.push(write_file(model.open(file)?.1, &source, &target, &patches)?);
    }
    // Every file is complete before the first takes its name, and the `.onnx` file, which is first in the order of names, takes its
    // name last: what is there under that name has all that it needs.
    for staged in done.into_iter().rev() {
        staged.commit()?;
    }
    Ok(())
}

/// A complete file that does not bear its name yet. It vanishes unless it is committed.
struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl Staged {
    fn commit(mut self) -> Result<(), PatchError> {
        fs::rename(&self.temporary, &self.target).map_err(|source| io_error(&self.target, source))?;
        self.committed = true;
        let folder = self.target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|d| d.sync_all()).map_err(|source| io_error(folder, source))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn write_file(mut from: File, source: &Path, target: &Path, patches: &[&Patch<'_>]) -> Result<Staged, PatchError> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let staged = Staged { temporary: target.with_file_name(name), target: target.to_owned(), committed: false };
    if let Some(folder) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|source| io_error(folder, source))?;
    }
    let file = (|| {
        let mut file = OpenOptions::new().write(true).read(true).create_new(true).open(&staged.temporary)?;
        io::copy(&mut from, &mut file)?;
        file.flush()?;
        Ok(file)
    })()
    .map_err(
        |e: io::Error| if e.kind() == io::ErrorKind::NotFound { io_error(source, e) } else { io_error(target, e) },
    )?;
    for patch in patches {
        apply(&file, patch).map_err(|e| match e {
            Ok(source) => io_error(target, source),
            Err(error) => error,
        })?;
    }
    file.sync_all().map_err(|source| io_error(target, source))?;
    Ok(staged)
}

/// Elements of a weight that are read and written at once.
const WINDOW: usize = 1 << 20;

fn apply(file: &File, patch: &Patch<'_>) -> Result<(), Result<io::Error, PatchError>> {
    let stored = patch.weight.stored;
    let size = stored.size();
    let mut window = vec![0u8; WINDOW * size];
    let mut at = 0;
    while at < patch.index.len() {
        let first = patch.index[at] as usize;
        let until = patch.index[at..].partition_point(|i| (*i as usize) < first + WINDOW) + at;
        let span = patch.index[until - 1] as usize - first + 1;
        let bytes = &mut window[..span * size];
        let offset = patch.weight.offset + (first * size) as u64;
        file.read_exact_at(bytes, offset).map_err(Ok)?;
        for (index, value) in patch.index[at..until].iter().zip(&patch.values[at..until]) {
            let start = (*index as usize - first) * size;
            let element = &mut bytes[start..start + size];
            match stored {
                Stored::Plain(sara_kernels::DType::F32) => element.copy_from_slice(&value.to_le_bytes()),
                Stored::Plain(sara_kernels::DType::F64) => element.copy_from_slice(&f64::from(*value).to_le_bytes()),
                // An infinity in a weight would make NaN of what is computed from it; this narrows as training does, to a finite number.
                Stored::F16 => {
                    let narrowed = <half::f16 as sara_kernels::Stored<f32>>::narrow(*value);
                    element.copy_from_slice(&narrowed.to_le_bytes());
                }
                Stored::Bf16 => element.copy_from_slice(&half::bf16::from_f32(*value).to_le_bytes()),
                Stored::Plain(_) => return Err(Err(PatchError::Type(patch.weight.name.clone()))),
            }
        }
        file.write_all_at(bytes, offset).map_err(Ok)?;
        at = until;
    }
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn io_error(path: &Path, source: io::Error) -> PatchError {
    PatchError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sara_kernels::DType;

    fn weight(file: &str, offset: u64, stored: Stored) -> Weight {
        Weight { name: "w".into(), path: "w".into(), shape: vec![2, 3], stored, file: file.into(), offset }
    }

    #[test]
    fn only_the_patched_elements_change() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.onnx");
        let head: Vec<u8> = (0..40).collect();
        fs::write(&model, &head).unwrap();
        fs::write(folder.path().join("data"), vec![7u8; 64]).unwrap();
        let inside = weight("", 5, Stored::Plain(DType::F32));
        let outside = weight("data", 10, Stored::F16);
        let patches = [
            Patch { weight: &inside, index: &[1, 4], values: &[1.5, -2.0] },
            Patch { weight: &outside, index: &[0, 5], values: &[0.5, 1e6] },
        ];
        let output = folder.path().join("out/tuned.onnx");
        export(&Source::new(&model), &BTreeSet::from(["data".to_owned()]), &patches, &output).unwrap();
        let mut expected = head.clone();
        expected[9..13].copy_from_slice(&1.5f32.to_le_bytes());
        expected[21..25].copy_from_slice(&(-2.0f32).to_le_bytes());
        assert_eq!(fs::read(&output).unwrap(), expected);
        let mut expected = vec![7u8; 64];
        expected[10..12].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
        expected[20..22].copy_from_slice(&half::f16::from_f32(65504.0).to_le_bytes());
        assert_eq!(fs::read(folder.path().join("out/data")).unwrap(), expected);
        assert_eq!(fs::read(&model).unwrap(), head, "the original stays");
    }

    #[test]
    fn the_original_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.onnx");
        fs::write(&model, [0; 8]).unwrap();
        fs::write(folder.path().join("data"), [0; 8]).unwrap();
        let external = BTreeSet::from(["data".to_owned()]);
        let error = export(&Source::new(&model), &external, &[], &folder.path().join("other.onnx")).unwrap_err();
        assert!(matches!(error, PatchError::Overwrites { .. }), "{error}");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "nothing is left behind: {left:?}");
    }

    /// A folder in the place of a file cannot be replaced by renaming.
    #[test]
    fn the_model_takes_its_name_last() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.onnx");
        fs::write(&model, [1; 8]).unwrap();
        let names = ["a.data", "b.data"].map(str::to_owned);
        for name in &names {
            fs::write(folder.path().join(name), [2; 8]).unwrap();
        }
        for blocked in &names {
            let out = folder.path().join(format!("out-{blocked}"));
            fs::create_dir_all(out.join(blocked)).unwrap();
            fs::write(out.join("tuned.onnx"), "before").unwrap();
            let error =
                export(&Source::new(&model), &BTreeSet::from(names.clone()), &[], &out.join("tuned.onnx")).unwrap_err();
            assert!(error.to_string().contains(blocked), "{error}");
            assert_eq!(fs::read(out.join("tuned.onnx")).unwrap(), b"before", "{blocked}: the model was replaced");
            let left = fs::read_dir(&out).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
            assert!(left.into_iter().all(|f| !f.contains("partial")), "{blocked}: a temporary file is left");
        }
    }

    #[test]
    fn a_missing_external_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.onnx");
        fs::write(&model, [0; 8]).unwrap();
        let external = BTreeSet::from(["gone.data".to_owned()]);
        let error =
            export(&Source::new(&model), &external, &[], &folder.path().join("out/m.onnx")).unwrap_err().to_string();
        assert!(error.contains("gone.data"), "{error}");
        assert!(!folder.path().join("out/m.onnx").exists());
    }
}
