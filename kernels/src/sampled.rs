//! Products of two matrices at chosen places of the result only.
//!
//! Places are given by their sorted positions in the result, row after row. Every place is a dot product of two contiguous
//! runs of elements, computed whole by one task.

use crate::Shared;
use crate::simd::{Job, LANES, Real, total};
use std::ops::Range;

/// Dot products computed at once.
const AT_ONCE: usize = 8;
/// Rows whose places a task looks up together.
pub(crate) const ROWS: usize = 1 << 15;

/// Writes the range of places of each of `rows` whose column is in `columns` to `table`, first and end alternating.
pub(crate) fn locate(idx: &[u32], row_len: usize, rows: Range<usize>, columns: &Range<usize>, table: &mut [u32]) {
    let mut at = 0;
    for (row, ends) in rows.zip(table.chunks_exact_mut(2)) {
        let find = |from: usize, position: usize| from + idx[from..].partition_point(|&i| (i as usize) < position);
        at = find(at, row * row_len + columns.start);
        ends[0] = at as u32;
        at = find(at, row * row_len + columns.end);
        ends[1] = at as u32;
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
    /// Start of the run of a row.
    pub(crate) left_at: A,
    /// Memory of the right operand.
    pub(crate) right: &'a [T],
    /// Start of the run of a column, which may depend on the row.
    pub(crate) right_at: B,
    /// Elements of a run.
    pub(crate) len: usize,
    /// Whether to add to what is there.
    pub(crate) add: bool,
    /// One element for each place.
    pub(crate) out: &'a Shared<'a, T>,
}

impl<T: Real, A: Fn(usize) -> usize, B: Fn(usize, usize) -> usize> Sampled<'_, T, A, B> {
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
        let pairs: [_; AT_ONCE] = std::array::from_fn(|e| *pending.get(e).unwrap_or(&last));
        let left = pairs.map(|p| &self.left[p.1..][..self.len]);
        let right = pairs.map(|p| &self.right[p.2..][..self.len]);
        let sums = dots::<T, FMA, AT_ONCE>(left, right, self.len);
        for (p, sum) in pending.iter().zip(sums) {
            self.put(p.0, sum);
        }
    }
}

impl<T: Real, A: Fn(usize) -> usize, B: Fn(usize, usize) -> usize> Job for Sampled<'_, T, A, B> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // Places left over in a row wait until there are enough of them from several rows.
        let mut pending = [(0, 0, 0); AT_ONCE];
        let mut waiting = 0;
        for (row, ends) in self.rows.clone().zip(self.table.chunks_exact(2)) {
            let (mut place, end) = (ends[0] as usize, ends[1] as usize);
            if place == end {
                continue;
            }
            let left_at = (self.left_at)(row);
            let first = row * self.row_len;
            let left = &self.left[left_at..][..self.len];
            while place + AT_ONCE <= end {
                let mut right = [left; AT_ONCE];
                for (right, &position) in right.iter_mut().zip(&self.idx[place..]) {
                    *right = &self.right[(self.right_at)(row, position as usize - first)..][..self.len];
                }
                let sums = dots_of_row::<T, FMA, AT_ONCE>(left, right, self.len);
                for (e, sum) in sums.into_iter().enumerate() {
                    self.put(place + e, sum);
                }
                place += AT_ONCE;
            }
            for place in place..end {
                pending[waiting] = (place, left_at, (self.right_at)(row, self.idx[place] as usize - first));
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

/// Dot products of pairs of runs.
#[inline(always)]
fn dots<T: Real, const FMA: bool, const E: usize>(left: [&[T]; E], right: [&[T]; E], len: usize) -> [T; E] {
    let whole = len / LANES;
    let a = left.map(|l| &l.as_chunks::<LANES>().0[..whole]);
    let b = right.map(|r| &r.as_chunks::<LANES>().0[..whole]);
    let mut sums = [[T::of(0.0); LANES]; E];
    for i in 0..whole {
        for e in 0..E {
            for l in 0..LANES {
                sums[e][l] = a[e][i][l].madd::<FMA>(b[e][i][l], sums[e][l]);
            }
        }
    }
    for e in 0..E {
        for (l, i) in (whole * LANES..len).enumerate() {
            sums[e][l] = left[e][i].madd::<FMA>(right[e][i], sums[e][l]);
        }
    }
    sums.map(total)
}

/// Dot products of one run with several; the same sums as [`dots`] computes.
#[inline(always)]
fn dots_of_row<T: Real, const FMA: bool, const E: usize>(left: &[T], right: [&[T]; E], len: usize) -> [T; E] {
    let whole = len / LANES;
    let a = &left.as_chunks::<LANES>().0[..whole];
    let b = right.map(|r| &r.as_chunks::<LANES>().0[..whole]);
    let mut sums = [[T::of(0.0); LANES]; E];
    for i in 0..whole {
        let a = a[i];
        for e in 0..E {
            for l in 0..LANES {
                sums[e][l] = a[l].madd::<FMA>(b[e][i][l], sums[e][l]);
            }
        }
    }
    for e in 0..E {
        for (l, i) in (whole * LANES..len).enumerate() {
            sums[e][l] = left[i].madd::<FMA>(right[e][i], sums[e][l]);
        }
    }
    sums.map(total)
}
