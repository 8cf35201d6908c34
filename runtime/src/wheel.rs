//! Filling the cache with libraries from the wheels that pip downloads.
//!
//! pip knows the configured package index, its mirrors and its proxies, so nothing about them is written here. The libraries in
//! the wheels do not depend on Python.

use crate::files::hex;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name under which the interpreter is looked up.
pub const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

/// More than any library takes, so that a damaged or hostile archive cannot fill the disk.
const MOST_BYTES: u64 = 1 << 30;

/// A package of the index, of which libraries are kept.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// Its name.
    pub package: &'static str,
    /// The version that the program knows.
    pub version: &'static str,
    /// SHA-256 of the wheels of that version, by file name.
    pub hashes: &'static [(&'static str, &'static str)],
    /// Whether a member of the archive, given by its path, is kept.
    pub keeps: fn(&str) -> bool,
}

/// Why a wheel could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// It could not be had or unpacked.
    #[error("could not fetch {package} {version}: {reason}")]
    Fetch {
        /// The package.
        package: &'static str,
        /// The pinned version.
        version: &'static str,
        /// What failed.
        reason: String,
    },
    /// It is not the one that the program knows.
    #[error("the wheel `{wheel}` has SHA-256 {actual}, but {expected} is expected; it was not used")]
    Hash {
        /// File name of the wheel.
        wheel: String,
        /// The pinned hash.
        expected: &'static str,
        /// The hash of the download.
        actual: String,
    },
}

/// How far the origin of a library was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The wheel of this name has the pinned hash.
    Hash(String),
    /// No hash is known for the wheel of this name; it is of the pinned version.
    VersionOnly(String),
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checked::Hash(wheel) => write!(f, "from `{wheel}`, whose hash is the pinned one"),
            Checked::VersionOnly(wheel) => {
                write!(f, "from `{wheel}`, of which no hash is known: only its version was checked")
            }
        }
    }
}

/// Libraries in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// How far their origin was checked.
    pub checked: Checked,
}

impl Wheel {
    /// Downloads the wheel and puts its libraries into a folder of the cache.
    pub fn fetch_into(&self, cache: &Path) -> Result<Fetched, WheelError> {
        fs::create_dir_all(cache).map_err(|e| self.failed(format!("`{}` cannot be made: {e}", cache.display())))?;
        let downloads = tempfile::tempdir().map_err(|e| self.failed(format!("no temporary directory: {e}")))?;
        let wheel = self.download(downloads.path())?;
        let bytes = fs::read(&wheel).map_err(|e| self.failed(format!("`{}` cannot be read: {e}", wheel.display())))?;
        let name = wheel.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        self.install(&name, &bytes, cache)
    }

    fn failed(&self, reason: String) -> WheelError {
        WheelError::Fetch { package: self.package, version: self.version, reason }
    }

    /// Has pip download the wheel for its own interpreter, or else one for any interpreter on this platform.
    fn download(&self, to: &Path) -> Result<PathBuf, WheelError> {
        let mut attempts: Vec<&[&str]> = vec![&[]];
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            attempts.push(&[
                "--implementation",
                "cp",
                "--python-version",
                "3.13",
                "--platform",
                "manylinux_2_28_x86_64",
            ]);
        }
        let mut reasons = Vec::new();
        for extra in attempts {
            let output = Command::new(PYTHON)
                .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
                .args(["--disable-pip-version-check", "--quiet", "--no-input"])
                .args(extra)
                .arg(format!("{}=={}", self.package, self.version))
                .arg("-d")
                .arg(to)
                .stdin(Stdio::null())
                .output()
                .map_err(|e| self.failed(format!("{PYTHON} cannot be started: {e}")))?;
            if output.status.success() {
                return the_wheel(to).ok_or_else(|| self.failed("pip reported success and left no wheel".to_owned()));
            }
            reasons.push(last_lines(&String::from_utf8_lossy(&output.stderr)));
        }
        reasons.dedup();
        Err(self.failed(format!("`{PYTHON} -m pip download` failed: {}", reasons.join(" / "))))
    }

    /// Checks a wheel and puts its libraries into the cache. Each appears there whole or not at all.
    fn install(&self, name: &str, wheel: &[u8], cache: &Path) -> Result<Fetched, WheelError> {
        let checked = self.check(name, wheel)?;
        let mut paths = Vec::new();
        for (file_name, library) in self.libraries(name, wheel)? {
            let path = cache.join(file_name);
            let write = || -> std::io::Result<()> {
                let mut file = tempfile::NamedTempFile::new_in(cache)?;
                std::io::Write::write_all(&mut file, &library)?;
                file.as_file().sync_all()?;
                file.persist(&path)?;
                Ok(())
            };
            write().map_err(|e| self.failed(format!("`{}` cannot be written: {e}", path.display())))?;
            paths.push(path);
        }
        Ok(Fetched { paths, checked })
    }

    fn check(&self, name: &str, wheel: &[u8]) -> Result<Checked, WheelError> {
        if !name.starts_with(&format!("{}-{}-", self.package.replace('-', "_"), self.version)) {
            return Err(self.failed(format!("pip downloaded `{name}`, which is of another version")));
        }
        let Some((_, expected)) = self.hashes.iter().find(|(known, _)| *known == name) else {
            return Ok(Checked::VersionOnly(name.to_owned()));
        };
        let actual = hex(&Sha256::digest(wheel));
        if actual == *expected {
            Ok(Checked::Hash(name.to_owned()))
        } else {
            Err(WheelError::Hash { wheel: name.to_owned(), expected, actual })
        }
    }

    /// The libraries in a wheel: their file names and bytes.
    fn libraries(&self, name: &str, wheel: &[u8]) -> Result<Vec<(String, Vec<u8>)>, WheelError> {
        let damaged = |reason: String| self.failed(format!("`{name}` cannot be unpacked: {reason}"));
        let mut archive = zip::ZipArchive::new(Cursor::new(wheel)).map_err(|e| damaged(e.to_string()))?;
        let members: Vec<String> =
            archive.file_names().flatten().map(|path| path.into_owned()).filter(|path| (self.keeps)(path)).collect();
        if members.is_empty() {
            return Err(damaged(format!("it holds no shared library of {}", self.package)));
        }
        let mut found = Vec::new();
        for path in members {
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
            found.push((path.rsplit('/').next().unwrap_or_default().to_owned(), bytes));
        }
        Ok(found)
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" ")
}

fn the_wheel(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "whl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Wheel = Wheel {
        package: "some-package",
        version: "1.2",
        hashes: &[("some_package-1.2-known.whl", "00")],
        keeps: |path| path.starts_with("some/lib/libsome.so"),
    };

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
            ("some/lib/other.so", b"no"),
            ("elsewhere/libsome.so", b"no"),
            ("some/lib/libsome.so.1", b"library"),
            ("some/lib/libsome.so.2", b"another"),
        ]);
        let name = "some_package-1.2-any.whl".to_owned();
        let fetched = HELD.install(&name, &bytes, cache.path()).expect("installed");
        assert_eq!(fetched.checked, Checked::VersionOnly(name));
        let held: Vec<Vec<u8>> = fetched.paths.iter().map(|p| fs::read(p).expect("the library")).collect();
        assert_eq!(held, [b"library", b"another"]);
        assert_eq!(fs::read_dir(cache.path()).expect("the cache").count(), 2);
    }

    #[test]
    fn wrong_wheels_are_refused() {
        let cache = tempfile::tempdir().expect("temporary directory");
        let bytes = wheel(&[("some/lib/libsome.so", b"library")]);
        let known = HELD.hashes[0].0;
        assert!(matches!(HELD.install(known, &bytes, cache.path()), Err(WheelError::Hash { .. })));
        let fetch_error = |name: &str, bytes: &[u8]| match HELD.install(name, bytes, cache.path()) {
            Err(WheelError::Fetch { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(fetch_error("some_package-0.1-any.whl", &bytes).contains("another version"));
        assert!(fetch_error("some_package-1.2-any.whl", b"not an archive").contains("cannot be unpacked"));
        assert!(fetch_error("some_package-1.2-any.whl", &wheel(&[])).contains("no shared library"));
        assert_eq!(fs::read_dir(cache.path()).expect("the cache").count(), 0);
    }
}
