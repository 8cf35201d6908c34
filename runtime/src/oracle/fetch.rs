//! Filling the cache with the pinned library, from the wheel that pip downloads.
//!
//! pip knows the configured package index, its mirrors and its proxies, so nothing about them is written here. The
//! library in a wheel does not depend on Python; only the module beside it, which is left out, does.

use std::fmt;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::OracleError;
use super::find::{self, PINNED_VERSION};

/// SHA-256 of the wheels of [`PINNED_VERSION`], by file name.
const PINNED_WHEELS: &[(&str, &str)] = &[
    (
        "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
    ),
    (
        "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8",
    ),
    (
        "onnxruntime-1.32.0-cp313-cp313-manylinux_2_28_x86_64.whl",
        "02ea12a28c069ea8510093d95a7f6ff8126bfd9fc5c0d3381c03b80fb2b424ba",
    ),
];

/// More than any library takes, so that a damaged or hostile archive cannot fill the disk.
const MOST_BYTES: u64 = 1 << 30;

/// How far the origin of a library was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It was in the cache already.
    Cached,
    /// The wheel of this name has the pinned hash.
    Hash(String),
    /// No hash is known for the wheel of this name; it is of the pinned version.
    VersionOnly(String),
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checked::Cached => f.write_str("it was in the cache already"),
            Checked::Hash(wheel) => write!(f, "from `{wheel}`, whose hash is the pinned one"),
            Checked::VersionOnly(wheel) => {
                write!(f, "from `{wheel}`, of which no hash is known: only its version was checked")
            }
        }
    }
}

/// A library in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The library file.
    pub path: PathBuf,
    /// How far its origin was checked.
    pub checked: Checked,
}

/// Makes sure that the cache holds the pinned library, downloading it if necessary.
pub fn fetch() -> Result<Fetched, OracleError> {
    let cache = find::cache_dir().ok_or_else(|| {
        failed("there is no place for the cache, because neither XDG_CACHE_HOME nor HOME is set".to_owned())
    })?;
    fetch_into(&cache)
}

/// Like [`fetch`], with a directory in the place of the cache.
pub fn fetch_into(cache: &Path) -> Result<Fetched, OracleError> {
    let places = find::Places { cache: Some(cache.to_owned()), ..find::Places::default() };
    if let Some(found) = places.search().found.into_iter().next() {
        return Ok(Fetched { path: found.path, checked: Checked::Cached });
    }
    fs::create_dir_all(cache).map_err(|e| failed(format!("`{}` cannot be made: {e}", cache.display())))?;
    let downloads = tempfile::tempdir().map_err(|e| failed(format!("no temporary directory: {e}")))?;
    let wheel = download(downloads.path())?;
    let bytes = fs::read(&wheel).map_err(|e| failed(format!("`{}` cannot be read: {e}", wheel.display())))?;
    let name = wheel.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    install(&name, &bytes, cache)
}

fn failed(reason: String) -> OracleError {
    OracleError::Fetch { version: PINNED_VERSION, reason }
}

/// Has pip download the wheel for its own interpreter, or else one for any interpreter on this platform.
fn download(to: &Path) -> Result<PathBuf, OracleError> {
    let mut attempts: Vec<&[&str]> = vec![&[]];
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        attempts.push(&["--implementation", "cp", "--python-version", "3.13", "--platform", "manylinux_2_28_x86_64"]);
    }
    let mut reasons = Vec::new();
    for extra in attempts {
        let output = Command::new(find::PYTHON)
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
            .args(["--disable-pip-version-check", "--quiet", "--no-input"])
            .args(extra)
            .arg(format!("onnxruntime=={PINNED_VERSION}"))
            .arg("-d")
            .arg(to)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| failed(format!("{} cannot be started: {e}", find::PYTHON)))?;
        if output.status.success() {
            return the_wheel(to);
        }
        reasons.push(last_lines(&String::from_utf8_lossy(&output.stderr)));
    }
    reasons.dedup();
    Err(failed(format!("`{} -m pip download` failed: {}", find::PYTHON, reasons.join(" / "))))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" ")
}

fn the_wheel(dir: &Path) -> Result<PathBuf, OracleError> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| failed("pip reported success and left no wheel".to_owned()))
}

/// Checks a wheel and puts its library into the cache. The library appears there whole or not at all.
fn install(name: &str, wheel: &[u8], cache: &Path) -> Result<Fetched, OracleError> {
    let checked = check(name, wheel)?;
    let (file_name, library) = library(name, wheel)?;
    let path = cache.join(file_name);
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(cache)?;
        std::io::Write::write_all(&mut file, &library)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(|e| failed(format!("`{}` cannot be written: {e}", path.display())))?;
    Ok(Fetched { path, checked })
}

fn check(name: &str, wheel: &[u8]) -> Result<Checked, OracleError> {
    if !name.starts_with(&format!("onnxruntime-{PINNED_VERSION}-")) {
        return Err(failed(format!("pip downloaded `{name}`, which is of another version")));
    }
    let Some((_, expected)) = PINNED_WHEELS.iter().find(|(known, _)| *known == name) else {
        return Ok(Checked::VersionOnly(name.to_owned()));
    };
    let actual: String = Sha256::digest(wheel).iter().map(|byte| format!("{byte:02x}")).collect();
    if actual == *expected {
        Ok(Checked::Hash(name.to_owned()))
    } else {
        Err(OracleError::Hash { wheel: name.to_owned(), expected, actual })
    }
}

/// The library in a wheel: its file name and its bytes.
fn library(name: &str, wheel: &[u8]) -> Result<(String, Vec<u8>), OracleError> {
    let damaged = |reason: String| failed(format!("`{name}` cannot be unpacked: {reason}"));
    let mut archive = zip::ZipArchive::new(Cursor::new(wheel)).map_err(|e| damaged(e.to_string()))?;
    let member = archive.file_names().flatten().find_map(|path| {
        let file = path.strip_prefix("onnxruntime/capi/")?;
        find::library_version(file)?;
        Some((file.to_owned(), path.into_owned()))
    });
    let Some((file, path)) = member else {
        return Err(damaged("it holds no shared library of ONNX Runtime".to_owned()));
    };
    let mut bytes = Vec::new();
    archive
        .by_name(&path)
        .map_err(|e| damaged(e.to_string()))?
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| damaged(e.to_string()))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(damaged(format!("`{path}` is larger than {MOST_BYTES} bytes")));
    }
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wheel with uncompressed members.
    fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, bytes) in members {
            writer.start_file(*name, stored).expect("a member");
            std::io::Write::write_all(&mut writer, bytes).expect("its bytes");
        }
        writer.finish().expect("an archive").into_inner()
    }

    #[test]
    fn an_unknown_wheel_is_accepted_by_version() {
        let cache = tempfile::tempdir().expect("temporary directory");
        let bytes = wheel(&[
            ("onnxruntime/capi/libonnxruntime_providers_shared.so", b"no"),
            ("elsewhere/libonnxruntime.so", b"no"),
            ("onnxruntime/capi/libonnxruntime.so.1.32.0", b"library"),
        ]);
        let name = format!("onnxruntime-{PINNED_VERSION}-cp399-cp399-any.whl");
        let fetched = install(&name, &bytes, cache.path()).expect("installed");
        assert_eq!(fetched.checked, Checked::VersionOnly(name));
        assert_eq!(fs::read(&fetched.path).expect("the library"), b"library");
        assert_eq!(fs::read_dir(cache.path()).expect("the cache").count(), 1);

        let again = fetch_into(cache.path()).expect("cached");
        assert_eq!((again.path, again.checked), (fetched.path, Checked::Cached));
    }

    #[test]
    fn wrong_wheels_are_refused() {
        let cache = tempfile::tempdir().expect("temporary directory");
        let bytes = wheel(&[("onnxruntime/capi/libonnxruntime.so", b"library")]);
        let (known, _) = PINNED_WHEELS[0];
        assert!(matches!(install(known, &bytes, cache.path()), Err(OracleError::Hash { .. })));
        let fetch_error = |name: &str, bytes: &[u8]| match install(name, bytes, cache.path()) {
            Err(OracleError::Fetch { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(fetch_error("onnxruntime-0.1-any.whl", &bytes).contains("another version"));
        let name = format!("onnxruntime-{PINNED_VERSION}-any.whl");
        assert!(fetch_error(&name, b"not an archive").contains("cannot be unpacked"));
        assert!(fetch_error(&name, &wheel(&[])).contains("no shared library"));
        assert_eq!(fs::read_dir(cache.path()).expect("the cache").count(), 0);
    }

    #[test]
    fn pinned_wheels_are_of_the_pinned_version() {
        for (name, hash) in PINNED_WHEELS {
            assert!(name.starts_with(&format!("onnxruntime-{PINNED_VERSION}-")), "{name}");
            assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        }
    }
}
