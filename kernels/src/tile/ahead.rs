//! Memory that is wanted next, and comes nearer while products are computed.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Rows of memory, of which products fetch some lines at each of their steps.
pub(crate) struct Ahead {
    next: *const u8,
    /// Lines that are left of the row, and that a row has.
    left: usize,
    row: usize,
    /// From the last line of a row to the first of the next.
    skip: usize,
    rows: usize,
    /// Lines of a step.
    share: usize,
}

impl Ahead {
    /// `rows` rows of `len` elements, `pitch` apart, from the element `start` on; none if that lies outside.
    pub(crate) fn new<T>(from: &[T], start: usize, rows: usize, len: usize, pitch: usize) -> Ahead {
        let inside = rows > 0 && len > 0 && start + (rows - 1) * pitch + len <= from.len();
        let bytes = |elements: usize| elements * size_of::<T>();
        let row = bytes(len).div_ceil(LINE);
        Ahead {
            next: from.as_ptr().wrapping_add(start).cast(),
            left: row,
            row,
            skip: bytes(pitch).wrapping_sub((row - usize::from(row > 0)) * LINE),
            rows: if inside { rows } else { 0 },
            share: 0,
        }
    }

    /// Says how many steps there are, so that each fetches as many lines.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn divide(&mut self, steps: usize) {
        // More would be waited for.
        const MOST: usize = 8;
        self.share = (self.rows * self.row).div_ceil(steps.max(1)).min(MOST);
    }

    /// Fetches those of a step.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn step(&mut self) {
        for _ in 0..self.share {
            if self.rows == 0 {
                return;
            }
            crate::simd::prefetch_far(self.next);
            self.left -= 1;
            let end = self.left == 0;
            self.next = self.next.wrapping_add(if end { self.skip } else { LINE });
            self.left = if end { self.row } else { self.left };
            self.rows -= usize::from(end);
        }
    }
}
