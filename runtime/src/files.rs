//! Writing files so that a reader never sees half of one: a temporary beside the target, synced, then renamed. And the identity of
//! files: size and hash.

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// Writes a file by `write`. On any error the target stays as it was and nothing is left beside it.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut write = Some(write);
    let result = Real
        .write(&temporary, &mut |out| write.take().map_or(Ok(()), |write| write(out)))
        .and_then(|()| Real.rename(&temporary, path))
        .and_then(|()| Real.sync_folder(folder));
    result.map_err(|error| {
        // The error that led here is the one to report, under the name that the caller knows.
        let _ = fs::remove_file(&temporary);
        match error {
            Error::Io { source, .. } => Error::io(path, source),
            other => other,
        }
    })
}

/// What saving does to a disk, so that tests can have one that fails.
pub trait Disk {
    /// Makes an empty folder, with those above it.
    fn create_folder(&self, path: &Path) -> Result<()>;
    /// Writes a new file and waits until it is on the disk.
    fn write(&self, path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>) -> Result<()>;
    /// Gives a file or folder another name. What has that name already is replaced if it is a file.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Waits until the names of a folder are on the disk.
    fn sync_folder(&self, path: &Path) -> Result<()>;
    /// Deletes a folder and what it holds, if it is there.
    fn remove_folder(&self, path: &Path) -> Result<()>;
}

/// The disk of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Real;

impl Disk for Real {
    fn create_folder(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).map_err(|e| Error::io(path, e))
    }

    fn write(&self, path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
        let mut write = || {
            let mut file = BufWriter::new(File::create(path)?);
            write(&mut file)?;
            file.into_inner().map_err(|e| e.into_error())?.sync_all()
        };
        write().map_err(|e| Error::io(path, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|e| Error::io(to, e))
    }

    fn sync_folder(&self, path: &Path) -> Result<()> {
        File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io(path, e))
    }

    fn remove_folder(&self, path: &Path) -> Result<()> {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
            _ => Ok(()),
        }
    }
}

/// Size of a file, and its SHA-256 in hexadecimal. Holds one piece of it at a time.
pub fn sha256_file(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(|e| Error::io(path, e))? {
            0 => return Ok((bytes, hex(&hash.finalize()))),
            n => {
                hash.update(&piece[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
