//! Whether a disk has room for what will be written.

use super::Error;
use std::path::Path;

/// What files take on a disk is a multiple of this.
const BLOCK: u64 = 4096;

/// What a file of so many bytes takes.
pub fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// That `needed` more bytes can be written into a folder, which need not be there yet. A disk that does not say how large it is passes.
pub fn check(folder: &Path, needed: u64) -> Result<(), Error> {
    match free(folder) {
        Some(free) if free < needed => Err(Error::Space { folder: folder.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

/// Bytes that may be written into a folder, or into the nearest one above it that is there.
fn free(folder: &Path) -> Option<u64> {
    let path = std::path::absolute(folder).ok()?;
    let found = rustix::fs::statvfs(path.ancestors().find(|path| path.exists())?).ok()?;
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_less_room_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("a/b");
        let room = free(&new).unwrap();
        assert!(room > 0);
        check(&new, 0).unwrap();
        match check(&new, u64::MAX).unwrap_err() {
            Error::Space { folder, needed: u64::MAX, free } => assert!(folder == new && free > 0 && free < u64::MAX),
            other => panic!("{other}"),
        }
        assert!(!folder.path().join("a").exists());
    }

    #[test]
    fn files_take_whole_blocks() {
        assert_eq!([0, 1, 4096, 4097].map(on_disk), [0, 4096, 4096, 8192]);
    }
}
