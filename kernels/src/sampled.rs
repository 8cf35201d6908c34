//! Products of two matrices at chosen places of the result only.
//!
//! Places are given by their positions in the result, which ascend strictly. Every place is a dot product of two runs of elements,
//! computed whole by one task, in pieces that depend on nothing but the shapes. Runs of the right operand may be copied into memory of
//! the task, piece by piece, where many places find them near. Operands may be stored in half precision and are widened when they are
//! read: sums are those of the wide numbers.

use crate::simd::{Job, LANES, Real, TILE, dispatch, prefetch, prefetch_at};
use crate::{Pool, SCRATCH_BYTES, Shared, Stored};
use std::ops::Range;

/// Rows whose positions are asked for before they are needed.
const AHEAD: usize = 8;
/// Rows of a task at most.
const ROWS: usize = 1 << 15;
/// Columns of a task at most.
pub(crate) const COLUMNS: usize = 1 << 14;
/// Places that a task goes through together: those of as many rows as fit. A row of a task has at most as many as columns.
const PLACES: usize = 1 << 17;
/// Bytes of the right operand that a task should find in its cache.
const PANEL: usize = 768 << 10;
/// Places of a row for which a run of the left operand is worth bringing near.
const USES: usize = 16;
/// Bytes that runs of the right operand may be copied into.
const RIGHT: usize = 2 << 20;
/// Bytes of runs that are copied together at most: a piece of a row's run, or of the runs of neighbouring columns.
pub(crate) const UNIT: usize = 256 << 10;
const _: () = assert!(
    2 * ROWS * size_of::<u32>() + (COLUMNS + PLACES) * size_of::<usize>() + UNIT + RIGHT <= SCRATCH_BYTES
        && 2 * UNIT <= RIGHT
        && COLUMNS <= PLACES
);

/// Elements of a piece of a run of `len` elements, which has at most about so many: the pieces are about as long as each other.
pub(crate) fn piece(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most)).next_multiple_of(LANES)
}

/// The runs of both operands, cut into pieces.
pub(crate) trait Operands<T>: Sync {
    /// How the left operand is stored.
    type Left: Stored<T>;
    /// How the right operand is stored.
    type Right: Stored<T>;
    /// Where a piece is.
    type Piece: Copy;

    /// The pieces of a run.
    fn pieces(&self) -> impl Iterator<Item = Self::Piece>;

    /// Where the elements of a piece lie.
    fn lines(&self, piece: Self::Piece) -> Lines;

    /// The piece of a row's run. It may be copied into `room`, if it has no more than [`UNIT`] bytes.
    fn left<'s>(&'s self, piece: Self::Piece, row: usize, room: &'s mut [u8]) -> &'s [Self::Left];

    /// Where that piece is read from, if there is such a row.
    fn source(&self, piece: Self::Piece, row: usize) -> &[Self::Left];

    /// Neighbouring rows that have products with the same runs.
    fn group(&self) -> usize;

    /// Neighbouring columns whose runs are in memory together, at most [`COLUMNS`], and the bytes that a piece of them takes.
    fn unit(&self) -> (usize, usize);

    /// Whether runs of the right operand are copied. Units have no more than [`UNIT`] bytes then.
    fn copies(&self) -> bool;

    /// The piece of the runs of some columns, which are whole units, for some groups of rows.
    fn right<'s>(
        &'s self,
        piece: Self::Piece,
        groups: &Range<usize>,
        columns: &Range<usize>,
        room: &'s mut [u8],
    ) -> &'s [Self::Right];

    /// Writes where each column's run begins in that memory, in the first group.
    fn starts(&self, columns: &Range<usize>, starts: &mut [usize]);

    /// Distance of groups in that memory.
    fn apart(&self, columns: &Range<usize>) -> usize;
}

/// Elements of a piece.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    /// Lines that it consists of, at least one.
    pub(crate) count: usize,
    /// Elements of a line, a multiple of [`LANES`] if there are several.
    pub(crate) len: usize,
    /// Distance of lines in the left operand.
    pub(crate) left: usize,
    /// Distance of lines in the right operand.
    pub(crate) right: usize,
}

impl Lines {
    /// Elements from the first of a piece to the last, if lines are `apart` from each other.
    fn reach(&self, apart: usize) -> usize {
        (self.count - 1) * apart + self.len
    }
}

/// Operands whose runs lie in memory already.
pub(crate) struct InPlace<'a, A, B> {
    pub(crate) left: &'a [A],
    pub(crate) right: &'a [B],
    /// Distances of the runs of both.
    pub(crate) apart: [usize; 2],
    /// Elements of a run, at least one.
    pub(crate) len: usize,
    /// Elements of a piece at most, about.
    pub(crate) most: usize,
    /// Rows and columns of a group.
    pub(crate) group: [usize; 2],
}

impl<A, B> InPlace<'_, A, B> {
    fn piece(&self) -> usize {
        piece(self.len, self.most)
    }
}

impl<T, A: Stored<T>, B: Stored<T>> Operands<T> for InPlace<'_, A, B> {
    type Left = A;
    type Right = B;
    /// Its first element.
    type Piece = usize;

    fn pieces(&self) -> impl Iterator<Item = usize> {
        (0..self.len).step_by(self.piece())
    }

    fn lines(&self, first: usize) -> Lines {
        Lines { count: 1, len: self.piece().min(self.len - first), left: 0, right: 0 }
    }

    #[inline(always)]
    fn left<'s>(&'s self, first: usize, row: usize, _: &'s mut [u8]) -> &'s [A] {
        self.source(first, row)
    }

    #[inline(always)]
    fn source(&self, first: usize, row: usize) -> &[A] {
        self.left.get(row * self.apart[0] + first..).unwrap_or_default()
    }

    fn group(&self) -> usize {
        self.group[0]
    }

    fn unit(&self) -> (usize, usize) {
        (1, self.piece() * size_of::<B>())
    }

    fn copies(&self) -> bool {
        false
    }

    fn right<'s>(&'s self, first: usize, groups: &Range<usize>, _: &Range<usize>, _: &'s mut [u8]) -> &'s [B] {
        &self.right[groups.start * self.group[1] * self.apart[1] + first..]
    }

    fn starts(&self, columns: &Range<usize>, starts: &mut [usize]) {
        for (column, start) in columns.clone().zip(starts) {
            *start = column * self.apart[1];
        }
    }

    fn apart(&self, _: &Range<usize>) -> usize {
        self.group[1] * self.apart[1]
    }
}

/// Dot products at places of a result.
pub(crate) struct Sampled<'a, T, O> {
    /// Positions of all places.
    pub(crate) idx: &'a [u32],
    /// Rows of the result.
    pub(crate) rows: usize,
    /// Columns of the result.
    pub(crate) cols: usize,
    pub(crate) operands: O,
    /// Whether to add to what is there.
    pub(crate) add: bool,
    /// One element for each place.
    pub(crate) out: &'a Shared<'a, T>,
}

impl<T: Real, O: Operands<T>> Sampled<'_, T, O> {
    /// Computes them.
    pub(crate) fn run(&self, pool: &Pool) {
        let Sampled { idx, rows, cols, ref operands, .. } = *self;
        if idx.is_empty() || rows * cols == 0 {
            return;
        }
        // As many columns as a cache has room for, and more where places are so few that rows are hardly used otherwise.
        let ((unit, bytes), group) = (operands.unit(), operands.group());
        let units = cols / unit;
        let used = (USES * rows * cols).div_ceil(idx.len() * unit);
        let most = if operands.copies() { RIGHT / 2 / bytes } else { units }.min(COLUMNS / unit);
        let across = units.div_ceil((PANEL / bytes).max(used).clamp(1, most.min(units)));
        // As many tasks for each thread, which copy nothing twice unless there are fewer parts than threads.
        let threads = pool.threads();
        let across =
            if across < threads { threads.div_ceil(threads / across) } else { across.next_multiple_of(threads) };
        let width = units.div_ceil(across);
        let across = units.div_ceil(width);
        let mut height = rows.div_ceil(threads.div_ceil(across)).min(ROWS);
        if operands.copies() && group < rows {
            // Rows that do not begin with a group have a part of one more.
            height = height.min((RIGHT / (width * bytes) - 1) * group);
        }
        let down = rows.div_ceil(height);
        pool.run(across * down, |task, memory| {
            let (part, first) = (task / down, task % down * height);
            let columns = part * width * unit..cols.min((part + 1) * width * unit);
            let rows = first..rows.min(first + height);
            let groups = rows.start / group..(rows.end - 1) / group + 1;
            let (ends, memory) = memory.split_at_mut(2 * ROWS * size_of::<u32>());
            let (starts, memory) = memory.split_at_mut(COLUMNS * size_of::<usize>());
            let (offsets, memory) = memory.split_at_mut(PLACES * size_of::<usize>());
            let (left, right) = memory.split_at_mut(UNIT);
            let ends = &mut bytemuck::cast_slice_mut(ends)[..2 * rows.len()];
            let starts: &mut [usize] = &mut bytemuck::cast_slice_mut(starts)[..columns.len()];
            let offsets: &mut [usize] = bytemuck::cast_slice_mut(offsets);
            locate(idx, cols, rows.clone(), &columns, ends);
            operands.starts(&columns, starts);
            let mut row = rows.start;
            while row < rows.end {
                let ends = &ends[2 * (row - rows.start)..];
                let height = fitting(ends);
                assert!(height > 0, "positions of entries do not ascend");
                let near = row..row + height;
                self.offsets(near.clone(), &groups, &columns, ends, starts, offsets);
                for (i, piece) in operands.pieces().enumerate() {
                    let right = operands.right(piece, &groups, &columns, right);
                    let (rows, add) = (near.clone(), self.add || i > 0);
                    dispatch(Piece { of: self, rows, ends, offsets, piece, add, right, left });
                }
                row += height;
            }
        });
    }

    /// Writes where the run of each place of `rows` begins in the memory of the right operand.
    fn offsets(
        &self,
        rows: Range<usize>,
        groups: &Range<usize>,
        columns: &Range<usize>,
        ends: &[u32],
        starts: &[usize],
        offsets: &mut [usize],
    ) {
        let (group, apart) = (self.operands.group(), self.operands.apart(columns));
        let mut offsets = offsets.iter_mut();
        for (i, row) in rows.enumerate() {
            // Rows are far apart in the list of positions.
            if let Some(&ahead) = ends.get(2 * (i + AHEAD)) {
                prefetch(self.idx, ahead as usize);
            }
            let (added, first) = ((row / group - groups.start) * apart, row * self.cols + columns.start);
            let places = &self.idx[ends[2 * i] as usize..ends[2 * i + 1] as usize];
            for (position, offset) in places.iter().zip(&mut offsets) {
                *offset = starts[*position as usize - first] + added;
            }
        }
    }
}

/// How many rows have places for one go.
fn fitting(ends: &[u32]) -> usize {
    let mut places = 0;
    let fits = |ends: &&[u32]| {
        places += (ends[1] - ends[0]) as usize;
        places <= PLACES
    };
    ends.chunks_exact(2).take_while(fits).count()
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
struct Piece<'a, 'b, T, O: Operands<T>> {
    of: &'a Sampled<'b, T, O>,
    rows: Range<usize>,
    /// The range of places of each row, first and end alternating.
    ends: &'a [u32],
    /// Where the runs of the places begin in `right`.
    offsets: &'a [usize],
    piece: O::Piece,
    /// Whether to add to what is there.
    add: bool,
    right: &'a [O::Right],
    /// Memory for a run of the left operand.
    left: &'a mut [u8],
}

impl<T: Real, O: Operands<T>> Job for Piece<'_, '_, T, O> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint places")]
    fn run<const FMA: bool>(self) {
        let Piece { of, rows, ends, mut offsets, piece, add, right, left: room } = self;
        let lines = &of.operands.lines(piece);
        for (row, ends) in rows.zip(ends.chunks_exact(2)) {
            let (first, count) = (ends[0] as usize, (ends[1] - ends[0]) as usize);
            if count == 0 {
                continue;
            }
            let left = of.operands.left(piece, row, room);
            // Its first products also bring the next row's run near; later ones ask for what is there.
            let mut ahead = of.operands.source(piece, row + 1).as_ptr();
            let (here, rest) = offsets.split_at(count);
            offsets = rest;
            // SAFETY: positions ascend strictly, so a place is in the table of one task.
            let out = unsafe { of.out.range(first, count) };
            let (eights, last) = here.as_chunks::<TILE>();
            let (out, last_out) = out.as_chunks_mut::<TILE>();
            for (at, out) in eights.iter().zip(out) {
                put(dots::<T, _, _, TILE, FMA>(left, right, lines, at, ahead), out, add);
                ahead = left.as_ptr();
            }
            match *last {
                [a] => put(dots::<T, _, _, 1, FMA>(left, right, lines, &[a], ahead), last_out, add),
                [a, b] => put(dots::<T, _, _, 2, FMA>(left, right, lines, &[a, b], ahead), last_out, add),
                [a, b, c] => put(dots::<T, _, _, 3, FMA>(left, right, lines, &[a, b, c], ahead), last_out, add),
                [a, b, c, d] => put(dots::<T, _, _, 4, FMA>(left, right, lines, &[a, b, c, d], ahead), last_out, add),
                [a, b, c, d, e] => {
                    put(dots::<T, _, _, 5, FMA>(left, right, lines, &[a, b, c, d, e], ahead), last_out, add)
                }
                [a, b, c, d, e, f] => {
                    put(dots::<T, _, _, 6, FMA>(left, right, lines, &[a, b, c, d, e, f], ahead), last_out, add)
                }
                [a, b, c, d, e, f, g] => {
                    put(dots::<T, _, _, 7, FMA>(left, right, lines, &[a, b, c, d, e, f, g], ahead), last_out, add)
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

/// Dot products of a run with those that begin at `at`, then zeros. Each is the same whatever `N` is.
#[inline(always)]
#[expect(unsafe_code, reason = "runs are read through pointers")]
fn dots<T: Real, A: Stored<T>, B: Stored<T>, const N: usize, const FMA: bool>(
    left: &[A],
    right: &[B],
    lines: &Lines,
    at: &[usize; N],
    ahead: *const A,
) -> [T; TILE] {
    let left = &left[..lines.reach(lines.left)];
    let mut runs = [right.as_ptr(); N];
    for (run, &at) in runs.iter_mut().zip(at) {
        *run = right[at..][..lines.reach(lines.right)].as_ptr();
    }
    let mut sums = [[T::of(0.0); LANES]; TILE];
    let whole = lines.len / LANES * LANES;
    for l in 0..lines.count {
        let mut i = 0;
        while i < whole {
            prefetch_at(ahead.wrapping_add(l * lines.len + i));
            // SAFETY: line `l` of each run has `lines.len` elements, and `i + LANES` is not beyond them.
            unsafe {
                let a = widened(&*left.as_ptr().add(l * lines.left + i).cast::<[A; LANES]>());
                for n in 0..N {
                    let b = widened(&*runs[n].add(l * lines.right + i).cast::<[B; LANES]>());
                    step::<T, FMA>(&a, &b, &mut sums[n]);
                }
            }
            i += LANES;
        }
    }
    if whole < lines.len {
        // There is one line.
        let rest = whole..lines.len;
        let mut a = [A::zeroed(); LANES];
        a[..rest.len()].copy_from_slice(&left[rest.clone()]);
        let a = widened(&a);
        for n in 0..N {
            let mut b = [B::zeroed(); LANES];
            b[..rest.len()].copy_from_slice(&right[at[n]..][rest.clone()]);
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
