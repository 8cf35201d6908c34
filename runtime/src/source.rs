//! The files of a model: the `.onnx` file and the external data that it names, opened so that no model can reach other files.
//!
//! A location in a model is taken as hostile. It must be a plain relative path, and what it leads to, after all symbolic links,
//! must be a regular file within one of these folders: the model's own, the one in which the `.onnx` file really lies (the
//! cache of the Hugging Face hub is made of links from one folder to another), or the one that the user declares. A hard link
//! cannot be told from the file it was made from, so a file with several names needs a declared folder.

use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Where a model lies.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Source {
    /// The `.onnx` file.
    pub model: PathBuf,
    /// A folder within which external data may lie too.
    pub root: Option<PathBuf>,
}

impl Source {
    /// The model at a path, without a declared folder.
    pub fn new(model: impl Into<PathBuf>) -> Source {
        Source { model: model.into(), root: None }
    }

    /// Folder of the `.onnx` file.
    pub fn folder(&self) -> &Path {
        self.model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The path of external data, or of the `.onnx` file if `file` is empty.
    pub fn path(&self, file: &str) -> PathBuf {
        if file.is_empty() { self.model.clone() } else { self.folder().join(file) }
    }

    /// Opens external data, or the `.onnx` file if `file` is empty.
    pub fn open(&self, file: &str) -> Result<(PathBuf, File)> {
        let path = self.path(file);
        let real = if file.is_empty() { path.clone() } else { self.within(file, &path)? };
        let irregular = || {
            Error::file(
                &path,
                format!(
                    "is not a regular file; give the path of an {} file",
                    if file.is_empty() { ".onnx" } else { "ordinary" }
                ),
            )
        };
        // To open a pipe would block until something is written to it.
        if !std::fs::metadata(&real).map_err(|e| Error::io(&path, e))?.is_file() {
            return Err(irregular());
        }
        let opened = File::open(&real).map_err(|e| Error::io(&path, e))?;
        let meta = opened.metadata().map_err(|e| Error::io(&path, e))?;
        if !meta.is_file() {
            return Err(irregular());
        }
        if !file.is_empty() && self.root.is_none() && meta.nlink() > 1 {
            return Err(Error::file(
                &path,
                format!(
                    "has {} names (hard links), so that it may be a file from anywhere; copy it, or declare its folder with --external-data-root",
                    meta.nlink()
                ),
            ));
        }
        Ok((path, opened))
    }

    /// What `path` leads to, if that is where external data may lie.
    fn within(&self, file: &str, path: &Path) -> Result<PathBuf> {
        if relative(file).as_deref() != Some(file) {
            return Err(Error::file(
                &self.model,
                format!("names external data at `{file}`, which is no plain relative path"),
            ));
        }
        let real = path.canonicalize().map_err(|e| {
            Error::file(
                path,
                format!("holds external data and cannot be read ({e}); put it beside {}", self.model.display()),
            )
        })?;
        let lies = self.model.canonicalize().ok().and_then(|m| m.parent().map(Path::to_owned));
        let folders = [Some(self.folder().to_owned()), lies, self.root.clone()];
        let mut folders = folders.into_iter().flatten().filter_map(|f| f.canonicalize().ok());
        if !folders.any(|folder| real.starts_with(folder)) {
            return Err(Error::file(
                path,
                format!(
                    "leads to {}, outside the model's folder; if that is meant, declare a folder that holds it with --external-data-root",
                    real.display()
                ),
            ));
        }
        Ok(real)
    }
}

/// `path` in its shortest form, if it is one of a file in or below the folder it starts from, on any system.
pub fn relative(path: &str) -> Option<String> {
    let foreign = |c: char| c == '\\' || c == ':' || c.is_control();
    if path.contains(foreign) || path.ends_with('/') {
        return None;
    }
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_are_shortened_or_refused() {
        for (path, short) in [("a", "a"), ("./a//b", "a/b"), ("a/./b", "a/b"), ("..a", "..a")] {
            assert_eq!(relative(path).as_deref(), Some(short));
        }
        for path in ["", ".", "/a", "../a", "a/../b", "a/..", "a/", "a\\b", "C:a", "a\0b", "a\nb", "\u{1b}[2J"] {
            assert_eq!(relative(path), None, "{path:?}");
        }
    }

    #[test]
    fn external_data_stays_where_it_may_lie() {
        let place = tempfile::tempdir().unwrap();
        let at = |p: &str| place.path().join(p);
        for folder in ["hub/blobs", "hub/snapshots/1", "secret", "plain/sub"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["hub/blobs/m", "hub/blobs/d", "secret/key", "plain/m.onnx", "plain/d", "plain/sub/d"] {
            fs::write(at(file), file).unwrap();
        }
        // The cache of the hub: both files are links to another folder.
        symlink("../../blobs/m", at("hub/snapshots/1/m.onnx")).unwrap();
        symlink("../../blobs/d", at("hub/snapshots/1/d")).unwrap();
        let hub = Source::new(at("hub/snapshots/1/m.onnx"));
        assert!(hub.open("d").is_ok() && hub.open("").is_ok());

        symlink(at("secret/key"), at("plain/leak")).unwrap();
        symlink(at("secret"), at("plain/folder")).unwrap();
        symlink("sub/d", at("plain/inside")).unwrap();
        fs::hard_link(at("secret/key"), at("plain/twin")).unwrap();
        let plain = Source::new(at("plain/m.onnx"));
        let declared = Source { root: Some(place.path().to_owned()), ..plain.clone() };
        for file in ["d", "sub/d", "inside"] {
            assert!(plain.open(file).is_ok(), "{file}");
        }
        for (file, reason) in [
            ("leak", "outside the model's folder"),
            ("folder/key", "outside the model's folder"),
            ("twin", "hard links"),
            ("sub", "not a regular file"),
            ("gone", "cannot be read"),
            ("../secret/key", "no plain relative path"),
            ("/etc/hostname", "no plain relative path"),
        ] {
            let error = plain.open(file).unwrap_err().to_string();
            assert!(error.contains(reason), "{file}: {error}");
        }
        for file in ["leak", "folder/key"] {
            assert!(declared.open(file).is_ok(), "{file}");
        }
    }
}
