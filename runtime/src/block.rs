//! Memory of an executor: aligned, zeroed when it is taken, and never moved.

use crate::error::{Error, Result};
use crate::plan::ALIGN;
use memmap2::MmapMut;
use std::ptr::NonNull;

/// Memory aligned to [`ALIGN`] bytes.
///
/// Every slice and every pointer into it is derived from the one pointer of its mapping, so that making a slice leaves the
/// pointers that were handed out before valid.
pub(crate) struct Block {
    /// Keeps the memory, which is reached by `start` alone.
    _map: MmapMut,
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: a block is the only owner of its memory, as a `Box<[u8]>` would be.
#[expect(unsafe_code, reason = "owns its memory")]
unsafe impl Send for Block {}
// SAFETY: a shared block only gives out shared slices and addresses; writing through an address is its user's to justify.
#[expect(unsafe_code, reason = "owns its memory")]
unsafe impl Sync for Block {}

impl Block {
    /// Zeroed memory of at least `bytes` bytes, which takes none until it is written.
    pub(crate) fn new(bytes: usize) -> Result<Block> {
        let missing = || {
            Error::Option(format!("{bytes} bytes of memory are not available; use a smaller batch or a smaller model"))
        };
        let size = bytes.max(1).checked_next_multiple_of(ALIGN as usize).ok_or_else(missing)?;
        let mut map = MmapMut::map_anon(size).map_err(|_| missing())?;
        // Kernels stride through more pages than processors remember. Without large ones it is only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = NonNull::new(map.as_mut_ptr()).ok_or_else(missing)?;
        Ok(Block { _map: map, start, size })
    }

    /// Address of the byte `at`. It may be written through while nobody else uses that byte.
    #[expect(unsafe_code, reason = "addresses memory that it owns")]
    pub(crate) fn address(&self, at: usize) -> *mut u8 {
        assert!(at <= self.size);
        // SAFETY: the sum lies in the allocation or at its end.
        unsafe { self.start.as_ptr().add(at) }
    }

    /// All bytes.
    #[expect(unsafe_code, reason = "views memory that it owns")]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation is initialised and lives as long as `self`; what writes to it borrows the executor, which owns
        // all blocks, exclusively.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    /// All bytes, to be written.
    #[expect(unsafe_code, reason = "views memory that it owns")]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }

    /// `len` elements from the byte `at` on.
    pub(crate) fn view<T: bytemuck::Pod>(&self, at: usize, len: usize) -> &[T] {
        bytemuck::cast_slice(&self.bytes()[at..at + len * size_of::<T>()])
    }

    /// `len` elements from the byte `at` on, to be written.
    pub(crate) fn view_mut<T: bytemuck::Pod>(&mut self, at: usize, len: usize) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.bytes_mut()[at..at + len * size_of::<T>()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "writes as a kernel does")]
    fn addresses_outlive_slices() {
        let mut block = Block::new(100).unwrap();
        assert!(block.bytes().len() >= 100 && block.bytes().iter().all(|b| *b == 0));
        let address = block.address(64);
        assert!(address.addr().is_multiple_of(ALIGN as usize));
        block.view_mut::<f32>(64, 2).copy_from_slice(&[1.0, 2.0]);
        // SAFETY: nobody else uses the block now.
        unsafe { *address.cast::<f32>() += 4.0 };
        assert_eq!(block.view::<f32>(64, 3), [5.0, 2.0, 0.0]);
        // SAFETY: as above.
        unsafe { *address.cast::<f32>() = 7.0 };
        assert_eq!(block.view::<f32>(64, 1), [7.0]);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for bytes in [usize::MAX, isize::MAX as usize - 100, 1 << 60] {
            let error = Block::new(bytes).err().unwrap().to_string();
            assert!(error.contains("bytes of memory are not available"), "{error}");
        }
        assert!(!Block::new(0).unwrap().bytes().is_empty());
    }
}
