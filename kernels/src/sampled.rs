//! Products of two matrices at chosen places of the result only.
//!
//! Places are given by their positions in the result, which ascend strictly. Every place is a dot product of two runs of elements,
//! computed whole by one task, in pieces whose lengths depend on nothing but the run's. A run of the right operand may be lines that lie
//! apart. Operands may be stored in half precision and are widened when they are read: sums are those of the wide numbers.

use crate::simd::{Job, LANES, Real, TILE, dispatch, prefetch};
use crate::{Pool, SCRATCH_BYTES, Shared, Stored};
use std::ops::Range;

/// Rows whose positions are asked for before they are needed.
const AHEAD: usize = 8;
/// Rows of a task at most.
const ROWS: usize = 1 << 15;
/// Columns of a task at most.
const COLUMNS: usize = 1 << 14;
/// Places that a task goes through together: those of as many rows as fit. A row of a task has at most as many as columns.
const PLACES: usize = COLUMNS;
/// Bytes of the right operand that a task should find in its cache.
const PANEL: usize = 384 << 10;
/// Places of a row for which a run of the left operand is worth bringing near.
const USES: usize = 8;
/// Tasks that there should be at least.
const TASKS: usize = 16;
const _: () = assert!(2 * ROWS * size_of::<u32>() + (COLUMNS + PLACES) * size_of::<usize>() <= SCRATCH_BYTES);

/// Elements of a piece of a run of `len` elements, which has at most about so many: the pieces are about as long as each other.
pub(crate) fn piece(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most)).next_multiple_of(LANES)
}

/// Dot products at places of a result.
pub(crate) struct Sampled<'a, T, A, B, L, R> {
    /// Positions of all places.
    pub(crate) idx: &'a [u32],
    /// Rows of the result.
    pub(crate) rows: usize,
    /// Columns of the result.
    pub(crate) cols: usize,
    /// Neighbouring columns whose runs lie in the same channel of the right operand.
    pub(crate) taps: usize,
    /// Memory of the left operand.
    pub(crate) left: &'a [A],
    /// Start of the run of a row, and what the row adds to the start of the runs of columns.
    pub(crate) left_at: L,
    /// Memory of the right operand.
    pub(crate) right: &'a [B],
    /// Start of the run of each tap in its channel.
    pub(crate) tap_at: R,
    /// Distance of channels of the right operand.
    pub(crate) right_pitch: usize,
    /// Elements of a run, at least one.
    pub(crate) len: usize,
    /// Elements of a line of a run, all of it or a multiple of [`LANES`] that divides it.
    pub(crate) line: usize,
    /// Distance of the lines of a run of the right operand, if it has several.
    pub(crate) right_line: usize,
    /// Elements of a piece, about, and at most unless a line has more.
    pub(crate) piece: usize,
    /// Whether to add to what is there.
    pub(crate) add: bool,
    /// One element for each place.
    pub(crate) out: &'a Shared<'a, T>,
}

impl<T, A, B, L, R> Sampled<'_, T, A, B, L, R>
where
    T: Real,
    A: Stored<T>,
    B: Stored<T>,
    L: Fn(usize) -> (usize, usize) + Sync,
    R: Fn(usize) -> usize + Sync,
{
    /// Computes them.
    pub(crate) fn run(&self, pool: &Pool) {
        let Sampled { rows, cols, taps, len, .. } = *self;
        if self.idx.is_empty() || rows * cols == 0 {
            return;
        }
        let piece =
            if self.line < len { piece(len, self.piece).next_multiple_of(self.line) } else { piece(len, self.piece) };
        // As many columns as a cache has room for, and more where places are so few that rows are hardly used otherwise.
        let room = PANEL / size_of::<B>() / piece * taps;
        let used = (USES * rows * cols).div_ceil(self.idx.len());
        let most = room.max(used).clamp(1, COLUMNS.min(cols));
        let most = if most > taps { most / taps * taps } else { most };
        let across = cols.div_ceil(most);
        let columns = cols.div_ceil(across).next_multiple_of(taps).min(most);
        let across = cols.div_ceil(columns);
        let height = rows.div_ceil(TASKS.div_ceil(across)).min(ROWS);
        let down = rows.div_ceil(height);
        pool.run(across * down, |task, bytes| {
            let (part, first) = (task / down, task % down * height);
            let columns = part * columns..cols.min((part + 1) * columns);
            let rows = first..rows.min(first + height);
            let (ends, bytes) = bytes.split_at_mut(2 * ROWS * size_of::<u32>());
            let (starts, offsets) = bytes.split_at_mut(COLUMNS * size_of::<usize>());
            let ends = &mut bytemuck::cast_slice_mut(ends)[..2 * rows.len()];
            let starts: &mut [usize] = &mut bytemuck::cast_slice_mut(starts)[..columns.len()];
            let offsets = &mut bytemuck::cast_slice_mut(offsets)[..PLACES];
            locate(self.idx, cols, rows.clone(), &columns, ends);
            for i in 0..columns.len() {
                let column = columns.start + i;
                starts[i] = match i.checked_sub(taps) {
                    Some(before) => starts[before] + self.right_pitch,
                    None => column / taps * self.right_pitch + (self.tap_at)(column % taps),
                };
            }
            let mut row = rows.start;
            while row < rows.end {
                let ends = &ends[2 * (row - rows.start)..];
                let height = self.group(ends);
                assert!(height > 0, "positions of entries do not ascend");
                let group = row..row + height;
                self.offsets(group.clone(), columns.start, ends, starts, offsets);
                for start in (0..len).step_by(piece) {
                    let piece = start..len.min(start + piece);
                    dispatch(Piece { of: self, rows: group.clone(), ends, offsets, piece });
                }
                row += height;
            }
        });
    }

    /// How many of the rows have places for one go.
    fn group(&self, ends: &[u32]) -> usize {
        let mut places = 0;
        let fits = |ends: &&[u32]| {
            places += (ends[1] - ends[0]) as usize;
            places <= PLACES
        };
        ends.chunks_exact(2).take_while(fits).count()
    }

    /// Writes where the run of each place of `rows` begins in the right operand.
    fn offsets(&self, rows: Range<usize>, column: usize, ends: &[u32], starts: &[usize], offsets: &mut [usize]) {
        let mut offsets = offsets.iter_mut();
        for (i, row) in rows.enumerate() {
            // Rows are far apart in the list of positions.
            if let Some(&ahead) = ends.get(2 * (i + AHEAD)) {
                prefetch(self.idx, ahead as usize);
            }
            let (added, first) = ((self.left_at)(row).1, row * self.cols + column);
            let places = &self.idx[ends[2 * i] as usize..ends[2 * i + 1] as usize];
            for (position, offset) in places.iter().zip(&mut offsets) {
                *offset = starts[*position as usize - first] + added;
            }
        }
    }
}

/// The first of the ascending positions `idx` that is not below `position`, sought from the place `near`.
fn seek(idx: &[u32], near: usize, position: usize) -> usize {
    let before = |at: usize| (idx[at] as usize) < position;
    let near = near.min(idx.len());
    let (mut low, mut high, mut step) = (near, near, 4);
    if near < idx.len() && before(near) {
        while high < idx.len() && before(high) {
            low = high + 1;
            high = idx.len().min(high + step);
            step *= 2;
        }
    } else {
        while low > 0 && !before(low - 1) {
            high = low - 1;
            low = low.saturating_sub(step);
            step *= 2;
        }
    }
    low + idx[low..high].partition_point(|&i| (i as usize) < position)
}

/// Writes the range of places of each of `rows` whose column is in `columns` to `table`, first and end alternating.
fn locate(idx: &[u32], row_len: usize, rows: Range<usize>, columns: &Range<usize>, table: &mut [u32]) {
    let mut at = idx.partition_point(|&i| (i as usize) < rows.start * row_len);
    // Rows hold about as many places as the one before.
    let mut apart = 0;
    for (row, ends) in rows.zip(table.chunks_exact_mut(2)) {
        let first = seek(idx, at + apart, row * row_len + columns.start);
        let end = seek(idx, first, row * row_len + columns.end);
        apart = first.saturating_sub(at);
        at = end;
        ends.copy_from_slice(&[first as u32, end as u32]);
    }
}

/// One piece of the runs of some rows.
struct Piece<'a, 'b, T, A, B, L, R> {
    of: &'a Sampled<'b, T, A, B, L, R>,
    rows: Range<usize>,
    /// The range of places of each row, first and end alternating.
    ends: &'a [u32],
    /// Where the runs of the places begin in the right operand.
    offsets: &'a [usize],
    piece: Range<usize>,
}

impl<T, A, B, L, R> Job for Piece<'_, '_, T, A, B, L, R>
where
    T: Real,
    A: Stored<T>,
    B: Stored<T>,
    L: Fn(usize) -> (usize, usize),
{
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint places")]
    fn run<const FMA: bool>(self) {
        let Piece { of, rows, ends, mut offsets, piece } = self;
        let (len, add) = (piece.len(), of.add || piece.start > 0);
        let (right, lines) = match of.line < of.len {
            true => (&of.right[piece.start / of.line * of.right_line..], [of.line, of.right_line]),
            false => (&of.right[piece.start..], [len, len]),
        };
        for (row, ends) in rows.zip(ends.chunks_exact(2)) {
            let (first, count) = (ends[0] as usize, (ends[1] - ends[0]) as usize);
            if count == 0 {
                continue;
            }
            let left = &of.left[(of.left_at)(row).0 + piece.start..][..len];
            let (here, rest) = offsets.split_at(count);
            offsets = rest;
            // SAFETY: positions ascend strictly, so a place is in the table of one task.
            let out = unsafe { of.out.range(first, count) };
            let (eights, last) = here.as_chunks::<TILE>();
            let (out, last_out) = out.as_chunks_mut::<TILE>();
            for (at, out) in eights.iter().zip(out) {
                put(dots::<T, A, B, TILE, FMA>(left, right, lines, at), out, add);
            }
            match *last {
                [a] => put(dots::<T, A, B, 1, FMA>(left, right, lines, &[a]), last_out, add),
                [a, b] => put(dots::<T, A, B, 2, FMA>(left, right, lines, &[a, b]), last_out, add),
                [a, b, c] => put(dots::<T, A, B, 3, FMA>(left, right, lines, &[a, b, c]), last_out, add),
                [a, b, c, d] => put(dots::<T, A, B, 4, FMA>(left, right, lines, &[a, b, c, d]), last_out, add),
                [a, b, c, d, e] => put(dots::<T, A, B, 5, FMA>(left, right, lines, &[a, b, c, d, e]), last_out, add),
                [a, b, c, d, e, f] => {
                    put(dots::<T, A, B, 6, FMA>(left, right, lines, &[a, b, c, d, e, f]), last_out, add)
                }
                [a, b, c, d, e, f, g] => {
                    put(dots::<T, A, B, 7, FMA>(left, right, lines, &[a, b, c, d, e, f, g]), last_out, add)
                }
                _ => {}
            }
        }
    }
}

#[inline(always)]
fn put<T: Real>(sums: [T; TILE], out: &mut [T], add: bool) {
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = if add { *out + sum } else { sum };
    }
}

/// Dot products of a run with those that begin at `at`, then zeros. Each is the same whatever `N` is. A run of the right operand has lines
/// of `line` elements, `apart` from each other.
#[inline(always)]
#[expect(unsafe_code, reason = "runs are read through pointers")]
fn dots<T: Real, A: Stored<T>, B: Stored<T>, const N: usize, const FMA: bool>(
    left: &[A],
    right: &[B],
    [line, apart]: [usize; 2],
    at: &[usize; N],
) -> [T; TILE] {
    let lines = left.len() / line;
    let reach = (lines - 1) * apart + line;
    let mut runs = [right.as_ptr(); N];
    for (run, &at) in runs.iter_mut().zip(at) {
        *run = right[at..][..reach].as_ptr();
    }
    let mut sums = [[T::of(0.0); LANES]; TILE];
    let whole = line / LANES * LANES;
    for (l, left) in left.chunks_exact(line).enumerate() {
        let mut i = 0;
        while i < whole {
            // SAFETY: line `l` of each run has `line` elements, and `i + LANES` is not beyond them.
            unsafe {
                let a = widened(&*left.as_ptr().add(i).cast::<[A; LANES]>());
                for n in 0..N {
                    let b = widened(&*runs[n].add(l * apart + i).cast::<[B; LANES]>());
                    step::<T, FMA>(&a, &b, &mut sums[n]);
                }
            }
            i += LANES;
        }
    }
    if whole < line {
        // There is one line.
        let mut a = [A::zeroed(); LANES];
        a[..line - whole].copy_from_slice(&left[whole..line]);
        let a = widened(&a);
        for n in 0..N {
            let mut b = [B::zeroed(); LANES];
            b[..line - whole].copy_from_slice(&right[at[n] + whole..][..line - whole]);
            step::<T, FMA>(&a, &widened(&b), &mut sums[n]);
        }
    }
    T::totals::<FMA>(sums)
}

/// The numbers that a vector of elements stands for.
#[inline(always)]
pub(crate) fn widened<T: Real, S: Stored<T>>(stored: &[S; LANES]) -> [T; LANES] {
    let mut wide = [T::of(0.0); LANES];
    for (wide, stored) in wide.iter_mut().zip(stored) {
        *wide = stored.wide();
    }
    wide
}

/// `sum += a * b`, lane by lane.
#[inline(always)]
pub(crate) fn step<T: Real, const FMA: bool>(a: &[T; LANES], b: &[T; LANES], sum: &mut [T; LANES]) {
    for l in 0..LANES {
        sum[l] = a[l].madd::<FMA>(b[l], sum[l]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::places;

    #[test]
    fn locates_every_place_once() {
        let row_len = 90;
        for density in [0.0, 0.02, 0.3, 1.0] {
            // Some rows are full, some empty.
            let mut idx = places(40 * row_len, density);
            idx.retain(|&i| !(300..900).contains(&i));
            idx.extend((300..500).filter(|_| density > 0.0));
            idx.sort_unstable();
            for columns in [0..90, 0..7, 31..80, 89..90] {
                for rows in [0..40, 3..11, 39..40] {
                    let mut table = vec![0; 2 * rows.len()];
                    locate(&idx, row_len, rows.clone(), &columns, &mut table);
                    for (row, ends) in rows.zip(table.chunks_exact(2)) {
                        let inside =
                            |&i: &u32| i as usize / row_len == row && columns.contains(&(i as usize % row_len));
                        let want: Vec<u32> = idx.iter().copied().filter(inside).collect();
                        assert_eq!(idx[ends[0] as usize..ends[1] as usize], want);
                    }
                }
            }
        }
    }
}
