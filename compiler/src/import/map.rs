//! The memory map: the one place of this crate that needs `unsafe`.

use crate::error::{Error, Result};
use bytes::Bytes;
use std::fs::File;
use std::path::Path;

/// Maps a file read-only.
#[expect(unsafe_code, reason = "a memory map is unsafe by nature")]
pub(super) fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::file(path, "is not a regular file; give the path of an .onnx file"));
    }
    if meta.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is private and read-only. A file that another process shortens meanwhile would end this process with
    // SIGBUS; models are not rewritten while they are read, and nothing weaker than a copy of the file would protect from it.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    Ok(Bytes::from_owner(map))
}
