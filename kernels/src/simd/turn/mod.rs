//! Matrices turned on their side.

use super::{Job, Real, TILE};
use crate::{Element, Shared, Stored};
use half::bf16;

#[cfg(target_arch = "x86_64")]
mod x86;

/// The transposed tile. `FMA` must be that of the [`Job`] that asks.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "calls code compiled for features that were found")]
pub(super) fn tile<const FMA: bool>(tile: [[f32; TILE]; TILE]) -> [[f32; TILE]; TILE] {
    if FMA {
        // SAFETY: on this architecture jobs run with `FMA` only where AVX2 was found.
        unsafe { x86::turn(tile) }
    } else {
        std::array::from_fn(|b| std::array::from_fn(|a| tile[a][b]))
    }
}

/// [`Real::turn_blocks`] in single precision.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the transpose goes to memory that tasks may share")]
pub(super) fn blocks(
    source: &[f32],
    source_row: usize,
    extents: [usize; 2],
    target: &mut [f32],
    target_row: usize,
) -> [usize; 2] {
    // SAFETY: the target is borrowed alone.
    unsafe { turn_shared(source, source_row, extents, &Shared::new(target), 0, target_row) }
}

/// As [`Real::turn_blocks`] to memory that tasks share, from the element `start` on.
///
/// # Safety
/// No other task may access the elements of the transpose meanwhile.
#[expect(unsafe_code, reason = "tasks write disjoint places, by code compiled for features that were found")]
pub(crate) unsafe fn turn_shared(
    source: &[f32],
    source_row: usize,
    extents: [usize; 2],
    target: &Shared<'_, f32>,
    start: usize,
    target_row: usize,
) -> [usize; 2] {
    let [rows, cols] = extents.map(|extent| extent / BLOCK * BLOCK);
    #[cfg(target_arch = "x86_64")]
    if rows * cols > 0 && is_x86_feature_detected!("avx512f") {
        assert!((rows - 1) * source_row + cols <= source.len(), "matrix exceeds its memory");
        assert!(start + (cols - 1) * target_row + rows <= target.len(), "transpose exceeds its memory");
        // SAFETY: the processor has the feature, all that is moved lies in the two by the assertions, and no other task accesses it by
        // the caller's promise.
        unsafe { x86::turn_blocks((source.as_ptr(), source_row), (target.ptr().add(start), target_row), [rows, cols]) };
        return [rows, cols];
    }
    [0; 2]
}

/// Side of the larger blocks that [`Turn`] moves where there are quick means.
pub(crate) const BLOCK: usize = 16;
/// Side of those of elements of 16 bits.
const HALVES: usize = 2 * BLOCK;
/// Columns that [`Turn`] moves together.
const STRIP: usize = 512;

/// A matrix to be turned and widened: `target[j * target_row + i] = source[i * source_row + j]` for `i < rows`, `j < cols`.
pub(crate) struct Turn<'a, T, S = T> {
    /// Where it is.
    pub(crate) source: &'a [S],
    /// Distance of its rows.
    pub(crate) source_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) cols: usize,
    /// Where its transpose goes.
    pub(crate) target: &'a mut [T],
    /// Distance of the rows of the transpose.
    pub(crate) target_row: usize,
}

impl<T: Real, S: Stored<T>> Job for Turn<'_, T, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Turn { source, source_row, rows, cols, target, target_row } = self;
        turn::<T, S, FMA>(source, source_row, [rows, cols], target, target_row);
    }
}

/// As [`Turn`], for a job.
#[inline(always)]
pub(crate) fn turn<T: Real, S: Stored<T>, const FMA: bool>(
    source: &[S],
    source_row: usize,
    [rows, cols]: [usize; 2],
    target: &mut [T],
    target_row: usize,
) {
    let [height, width] = match S::plain(source) {
        Some(source) => T::turn_blocks(source, source_row, [rows, cols], target, target_row),
        None => [0; 2],
    };
    rest::<T, S, FMA>(source, source_row, [rows, cols], target, target_row, [height, width], S::wide);
}

/// Elements that are turned as they are stored.
pub(crate) trait Turned: Element {
    /// The transposed tile. `FMA` must be that of the [`Job`] that asks.
    fn tile<const FMA: bool>(tile: [[Self; TILE]; TILE]) -> [[Self; TILE]; TILE];
    /// As [`Real::turn_blocks`].
    fn blocks(
        source: &[Self],
        source_row: usize,
        extents: [usize; 2],
        target: &mut [Self],
        target_row: usize,
    ) -> [usize; 2];
}

impl<T: Real> Turned for T {
    #[inline(always)]
    fn tile<const FMA: bool>(tile: [[T; TILE]; TILE]) -> [[T; TILE]; TILE] {
        T::turn::<FMA>(tile)
    }
    fn blocks(source: &[T], source_row: usize, extents: [usize; 2], target: &mut [T], target_row: usize) -> [usize; 2] {
        T::turn_blocks(source, source_row, extents, target, target_row)
    }
}

impl Turned for bf16 {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "calls code compiled for features that every processor has")]
    fn tile<const FMA: bool>(tile: [[bf16; TILE]; TILE]) -> [[bf16; TILE]; TILE] {
        // SAFETY: every processor of this architecture has SSE2.
        bytemuck::cast(unsafe { x86::turn_half_tile(bytemuck::cast(tile)) })
    }
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    fn tile<const FMA: bool>(tile: [[bf16; TILE]; TILE]) -> [[bf16; TILE]; TILE] {
        std::array::from_fn(|b| std::array::from_fn(|a| tile[a][b]))
    }
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "calls code compiled for features that were found")]
    fn blocks(
        source: &[bf16],
        source_row: usize,
        extents: [usize; 2],
        target: &mut [bf16],
        target_row: usize,
    ) -> [usize; 2] {
        let [rows, cols] = extents.map(|extent| extent / HALVES * HALVES);
        if rows * cols == 0 || !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("avx512bw") {
            return [0; 2];
        }
        assert!((rows - 1) * source_row + cols <= source.len(), "matrix exceeds its memory");
        assert!((cols - 1) * target_row + rows <= target.len(), "transpose exceeds its memory");
        let (source, target) = (source.as_ptr().cast(), target.as_mut_ptr().cast());
        // SAFETY: the processor has the features, all that is moved lies in the two by the assertions, and the target is borrowed alone.
        unsafe { x86::turn_halves((source, source_row), (target, target_row), [rows, cols]) };
        [rows, cols]
    }
    #[cfg(not(target_arch = "x86_64"))]
    fn blocks(_: &[bf16], _: usize, _: [usize; 2], _: &mut [bf16], _: usize) -> [usize; 2] {
        [0; 2]
    }
}

/// As [`turn`], of elements that stay as they are stored.
#[inline(always)]
pub(crate) fn turn_stored<S: Turned, const FMA: bool>(
    source: &[S],
    source_row: usize,
    extents: [usize; 2],
    target: &mut [S],
    target_row: usize,
) {
    let done = S::blocks(source, source_row, extents, target, target_row);
    rest::<S, S, FMA>(source, source_row, extents, target, target_row, done, |element| element);
}

/// Turns what is not among the first rows and columns, which are done.
#[inline(always)]
fn rest<T: Turned, S: Element, const FMA: bool>(
    source: &[S],
    source_row: usize,
    [rows, cols]: [usize; 2],
    target: &mut [T],
    target_row: usize,
    [height, width]: [usize; 2],
    wide: impl Fn(S) -> T + Copy,
) {
    if width < cols && height > 0 {
        let (source, target) = (&source[width..], &mut target[width * target_row..]);
        transpose::<T, S, FMA>(source, source_row, [height, cols - width], target, target_row, wide);
    }
    if height < rows {
        let (source, target) = (&source[height * source_row..], &mut target[height..]);
        transpose::<T, S, FMA>(source, source_row, [rows - height, cols], target, target_row, wide);
    }
}

/// Rows whose elements [`Turn`] asks for before it needs them.
const AHEAD: usize = TILE;

/// Brings element `at` nearer, if there is such an element.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T], at: usize) {
    if let Some(element) = slice.get(at) {
        prefetch_at(element);
    }
}

/// Brings what is there nearer, if anything is.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "the hint takes a pointer")]
pub(crate) fn prefetch_at<T>(at: *const T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint does not access memory, and every processor of this architecture has it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// Would bring what is there nearer.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn prefetch_at<T>(_at: *const T) {}

/// Brings what is there to the core's larger cache, if anything is.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "the hint takes a pointer")]
pub(crate) fn prefetch_far(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: as for `prefetch_at`.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}

#[inline(always)]
fn transpose<T: Turned, S: Element, const FMA: bool>(
    source: &[S],
    source_row: usize,
    [rows, cols]: [usize; 2],
    target: &mut [T],
    target_row: usize,
    wide: impl Fn(S) -> T + Copy,
) {
    // A strip reads the source along its rows; the lines of the target that it writes stay in the nearest caches until
    // the following rows fill them.
    for strip in (0..cols).step_by(STRIP) {
        let columns = strip..cols.min(strip + STRIP);
        for i in (0..rows).step_by(TILE) {
            let height = TILE.min(rows - i);
            for j in columns.clone().step_by(TILE) {
                let width = TILE.min(columns.end - j);
                if width == TILE && height == TILE {
                    for a in 0..TILE {
                        prefetch(source, (i + AHEAD + a) * source_row + j);
                    }
                    let mut tile = [[T::zeroed(); TILE]; TILE];
                    for (a, row) in tile.iter_mut().enumerate() {
                        let source = &source[(i + a) * source_row + j..][..TILE];
                        row.iter_mut().zip(source).for_each(|(to, from)| *to = wide(*from));
                    }
                    for (b, row) in T::tile::<FMA>(tile).iter().enumerate() {
                        target[(j + b) * target_row + i..][..TILE].copy_from_slice(row);
                    }
                } else {
                    for b in 0..width {
                        for a in 0..height {
                            target[(j + b) * target_row + i + a] = wide(source[(i + a) * source_row + j + b]);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::dispatch;

    const EXTENTS: [(usize, usize); 11] =
        [(1, 1), (8, 8), (9, 17), (16, 3), (31, 24), (0, 4), (16, 16), (33, 530), (48, 1030), (64, 96), (70, 45)];

    #[test]
    fn transposes() {
        for (rows, cols) in EXTENTS {
            let (from, to) = (cols + 2, rows + 3);
            let source: Vec<f32> = (0..rows.max(1) * from).map(|i| i as f32).collect();
            let mut target = vec![-1.0; cols * to];
            let (source, target) = (&source, &mut target);
            dispatch(Turn { source, source_row: from, rows, cols, target, target_row: to });
            for j in 0..cols {
                for i in 0..to {
                    let want = if i < rows { source[i * from + j] } else { -1.0 };
                    assert_eq!(target[j * to + i], want);
                }
            }
        }
    }

    struct Halves<'a>(&'a [bf16], usize, [usize; 2], &'a mut [bf16], usize);

    impl Job for Halves<'_> {
        type Out = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            turn_stored::<bf16, FMA>(self.0, self.1, self.2, self.3, self.4);
        }
    }

    #[test]
    fn transposes_halves_as_they_are() {
        for (rows, cols) in EXTENTS {
            let (from, to) = (cols + 2, rows + 3);
            let source: Vec<bf16> = (0..rows.max(1) * from).map(|i| bf16::from_bits(i as u16)).collect();
            let mut target = vec![bf16::NAN; cols * to];
            dispatch(Halves(&source, from, [rows, cols], &mut target, to));
            for j in 0..cols {
                for i in 0..to {
                    let want = if i < rows { source[i * from + j] } else { bf16::NAN };
                    assert_eq!(target[j * to + i].to_bits(), want.to_bits());
                }
            }
        }
    }
}
