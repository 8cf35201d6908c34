//! Products of two matrices at chosen places of the result only.
//!
//! Places are given by their sorted positions in the result, row after row. Every place is a dot product of two
//! contiguous runs of elements, computed whole by one task.

use crate::Shared;
use crate::simd::{Job, LANES, Real, prefetch, total};
use std::ops::Range;

/// Dot products computed at once.
const AT_ONCE: usize = 8;
/// Rows whose positions are asked for before they are needed.
const AHEAD: usize = 8;
/// Rows whose places a task looks up together.
pub(crate) const ROWS: usize = 1 << 15;

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
pub(crate) fn locate(idx: &[u32], row_len: usize, rows: Range<usize>, columns: &Range<usize>, table: &mut [u32]) {
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

/// The dot products of the places that [`locate`] found.
pub(crate) struct Sampled<'a, T, A, B> {
    /// Positions of all places.
    pub(crate) idx: &'a [u32],
    /// Columns of the result.
    pub(crate) row_len: usize,
    /// Rows looked up.
    pub(crate) rows: Range<usize>,
    /// What [`locate`] found.
    pub(crate) table: &'a [u32],
    /// Memory of the left operand.
    pub(crate) left: &'a [T],
    /// Start of the run of a row, and what the row adds to the start of the runs of columns.
    pub(crate) left_at: A,
    /// Memory of the right operand.
    pub(crate) right: &'a [T],
    /// Start of the run of a column, apart from what the row adds.
    pub(crate) right_at: B,
    /// Elements of a run.
    pub(crate) len: usize,
    /// Whether to add to what is there.
    pub(crate) add: bool,
    /// One element for each place.
    pub(crate) out: &'a Shared<'a, T>,
}

impl<T: Real, A: Fn(usize) -> (usize, usize), B: Fn(u32) -> usize> Sampled<'_, T, A, B> {
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint places")]
    fn put(&self, place: usize, value: T) {
        // SAFETY: a place is in the table of one task.
        let out = unsafe { self.out.range(place, 1) };
        out[0] = if self.add { out[0] + value } else { value };
    }

    #[inline(always)]
    fn flush<const FMA: bool>(&self, pending: &[(usize, usize, usize)]) {
        let Some(&last) = pending.last() else { return };
        let mut pairs = [last; AT_ONCE];
        pairs[..pending.len()].copy_from_slice(pending);
        let (mut left, mut right) = ([self.left; AT_ONCE], [self.right; AT_ONCE]);
        for e in 0..AT_ONCE {
            left[e] = &self.left[pairs[e].1..][..self.len];
            right[e] = &self.right[pairs[e].2..][..self.len];
        }
        let sums = dots::<T, FMA>(left, right);
        for (p, sum) in pending.iter().zip(sums) {
            self.put(p.0, sum);
        }
    }
}

impl<T: Real, A: Fn(usize) -> (usize, usize), B: Fn(u32) -> usize> Job for Sampled<'_, T, A, B> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // Places left over in a row wait until there are enough of them from several rows.
        let mut pending = [(0, 0, 0); AT_ONCE];
        let mut waiting = 0;
        for (row, ends) in self.rows.clone().zip(self.table.chunks_exact(2)) {
            let (mut place, end) = (ends[0] as usize, ends[1] as usize);
            // Rows are far apart in the list of positions.
            if let Some(&ahead) = self.table.get(2 * (row - self.rows.start + AHEAD)) {
                prefetch(self.idx, ahead as usize);
            }
            if place == end {
                continue;
            }
            let (left_at, added) = (self.left_at)(row);
            let first = row * self.row_len;
            let right_at = |position: u32| added + (self.right_at)((position as usize - first) as u32);
            let left = &self.left[left_at..][..self.len];
            while place + AT_ONCE <= end {
                let mut right = [left; AT_ONCE];
                for (right, &position) in right.iter_mut().zip(&self.idx[place..]) {
                    *right = &self.right[right_at(position)..][..self.len];
                }
                let sums = dots_of_row::<T, FMA>(left, right);
                for (e, sum) in sums.into_iter().enumerate() {
                    self.put(place + e, sum);
                }
                place += AT_ONCE;
            }
            for place in place..end {
                pending[waiting] = (place, left_at, right_at(self.idx[place]));
                waiting += 1;
                if waiting == AT_ONCE {
                    self.flush::<FMA>(&pending);
                    waiting = 0;
                }
            }
        }
        self.flush::<FMA>(&pending[..waiting]);
    }
}

/// A cache line's worth of elements.
type Lane<T> = [T; LANES];

/// `sum += a * b`, lane by lane.
#[inline(always)]
fn step<T: Real, const FMA: bool>(a: &Lane<T>, b: &Lane<T>, sum: &mut Lane<T>) {
    for l in 0..LANES {
        sum[l] = a[l].madd::<FMA>(b[l], sum[l]);
    }
}

/// Adds the products of what is left after the whole lanes, and sums up.
#[inline(always)]
fn finish<T: Real, const FMA: bool>(left: &[T], right: &[T], mut sum: Lane<T>) -> T {
    let (a, b) = (left.as_chunks::<LANES>().1, right.as_chunks::<LANES>().1);
    if !a.is_empty() {
        let (mut padded_a, mut padded_b) = ([T::of(0.0); LANES], [T::of(0.0); LANES]);
        padded_a[..a.len()].copy_from_slice(a);
        padded_b[..b.len()].copy_from_slice(b);
        step::<T, FMA>(&padded_a, &padded_b, &mut sum);
    }
    total(sum)
}

/// Dot products of pairs of runs.
#[inline(always)]
fn dots<T: Real, const FMA: bool>(left: [&[T]; AT_ONCE], right: [&[T]; AT_ONCE]) -> [T; AT_ONCE] {
    let mut sums = [T::of(0.0); AT_ONCE];
    // Two at a time, so that the pointers stay in registers.
    let mut e = 0;
    while e < AT_ONCE {
        let (a0, b0) = (left[e].as_chunks::<LANES>().0, right[e].as_chunks::<LANES>().0);
        let (a1, b1) = (left[e + 1].as_chunks::<LANES>().0, right[e + 1].as_chunks::<LANES>().0);
        let (mut s0, mut s1) = ([T::of(0.0); LANES], [T::of(0.0); LANES]);
        for (((a0, b0), a1), b1) in a0.iter().zip(b0).zip(a1).zip(b1) {
            step::<T, FMA>(a0, b0, &mut s0);
            step::<T, FMA>(a1, b1, &mut s1);
        }
        sums[e] = finish::<T, FMA>(left[e], right[e], s0);
        sums[e + 1] = finish::<T, FMA>(left[e + 1], right[e + 1], s1);
        e += 2;
    }
    sums
}

/// Dot products of one run with several; the same sums as [`dots`] computes.
#[inline(always)]
fn dots_of_row<T: Real, const FMA: bool>(left: &[T], right: [&[T]; AT_ONCE]) -> [T; AT_ONCE] {
    let a = left.as_chunks::<LANES>().0;
    let [r0, r1, r2, r3, r4, r5, r6, r7] = right;
    let (b0, b1) = (r0.as_chunks::<LANES>().0, r1.as_chunks::<LANES>().0);
    let (b2, b3) = (r2.as_chunks::<LANES>().0, r3.as_chunks::<LANES>().0);
    let (b4, b5) = (r4.as_chunks::<LANES>().0, r5.as_chunks::<LANES>().0);
    let (b6, b7) = (r6.as_chunks::<LANES>().0, r7.as_chunks::<LANES>().0);
    let zero = [T::of(0.0); LANES];
    let (mut s0, mut s1, mut s2, mut s3) = (zero, zero, zero, zero);
    let (mut s4, mut s5, mut s6, mut s7) = (zero, zero, zero, zero);
    let low = b0.iter().zip(b1).zip(b2).zip(b3);
    let high = b4.iter().zip(b5).zip(b6).zip(b7);
    for ((a, (((b0, b1), b2), b3)), (((b4, b5), b6), b7)) in a.iter().zip(low).zip(high) {
        step::<T, FMA>(a, b0, &mut s0);
        step::<T, FMA>(a, b1, &mut s1);
        step::<T, FMA>(a, b2, &mut s2);
        step::<T, FMA>(a, b3, &mut s3);
        step::<T, FMA>(a, b4, &mut s4);
        step::<T, FMA>(a, b5, &mut s5);
        step::<T, FMA>(a, b6, &mut s6);
        step::<T, FMA>(a, b7, &mut s7);
    }
    [
        finish::<T, FMA>(left, r0, s0),
        finish::<T, FMA>(left, r1, s1),
        finish::<T, FMA>(left, r2, s2),
        finish::<T, FMA>(left, r3, s3),
        finish::<T, FMA>(left, r4, s4),
        finish::<T, FMA>(left, r5, s5),
        finish::<T, FMA>(left, r6, s6),
        finish::<T, FMA>(left, r7, s7),
    ]
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
