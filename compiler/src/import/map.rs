//! The memory map: the one place of this crate that needs `unsafe`.

use crate::error::{Error, Result};
use bytes::Bytes;
use sara_runtime::source::Source;

/// Maps external data read-only, or the `.onnx` file if `file` is empty.
#[expect(unsafe_code, reason = "a memory map is unsafe by nature")]
pub(super) fn map(source: &Source, file: &str) -> Result<Bytes> {
    let (path, file) = source.open(file)?;
    if file.metadata().map_err(|e| Error::io(&path, e))?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is private and read-only. A file that another process shortens meanwhile would end this process with
    // SIGBUS; models are not rewritten while they are read, and nothing weaker than a copy of the file would protect from it.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(&path, e))?;
    Ok(Bytes::from_owner(map))
}
