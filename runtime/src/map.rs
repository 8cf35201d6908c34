//! Files as memory, read-only.

use crate::error::{Error, Result};
use crate::source::Source;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::ops::Range;

/// A mapped file; an empty file is an empty map.
pub struct Map(Option<Mmap>);

impl Map {
    /// Maps external data, or the `.onnx` file if `file` is empty.
    #[expect(unsafe_code, reason = "a memory map is unsafe by nature")]
    pub fn open(source: &Source, file: &str) -> Result<Map> {
        let (path, file) = source.open(file)?;
        if file.metadata().map_err(|e| Error::io(&path, e))?.len() == 0 {
            return Ok(Map(None));
        }
        // SAFETY: the map is private and read-only. A file that another process shortens meanwhile would end this process with
        // SIGBUS; models are not rewritten while they are read, and nothing weaker than a copy of the file would protect from it.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(&path, e))?;
        Ok(Map(Some(map)))
    }

    /// Has the system begin to read a range of bytes. That it does not is no error.
    pub(crate) fn will_need(&self, range: &Range<usize>) {
        if let Some(map) = self.0.as_ref().filter(|_| !range.is_empty()) {
            let _ = map.advise_range(Advice::WillNeed, range.start, range.len());
        }
    }

    /// Gives the memory of a range of bytes back. They are read from the file again when they are next touched.
    #[expect(unsafe_code, reason = "advice that may discard memory")]
    pub(crate) fn give_back(&self, range: &Range<usize>) {
        if let Some(map) = self.0.as_ref().filter(|_| !range.is_empty()) {
            // SAFETY: the map is of a file and is never written, so that a discarded page comes back with the same bytes.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        std::fs::write(folder.path().join("m.onnx"), &bytes).unwrap();
        let map = Map::open(&Source::new(folder.path().join("m.onnx")), "").unwrap();
        for range in [0..100_000, 5000..99_999, 7..8, 0..0] {
            map.will_need(&range);
            map.give_back(&range);
            assert_eq!(map.as_ref(), bytes);
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m.onnx"), []).unwrap();
        let map = Map::open(&Source::new(folder.path().join("m.onnx")), "").unwrap();
        map.give_back(&(0..0));
        assert!(map.as_ref().is_empty());
    }
}
