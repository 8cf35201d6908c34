//! Index spaces that several operands are walked over in step, in the fewest dimensions.

use crate::Pool;

/// Dimensions that an index space may have once neighbours are merged. The compiler refuses tensors with more.
pub(crate) const RANK: usize = 16;
/// Elements of a task of an elementwise kernel.
pub(crate) const GRAIN: usize = 1 << 14;

/// One dimension, with the distance in elements between its neighbours in each of `N` operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dim<const N: usize> {
    pub(crate) size: usize,
    pub(crate) strides: [isize; N],
}

/// An index space with `N` operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid<const N: usize> {
    dims: [Dim<N>; RANK],
    rank: usize,
    len: usize,
}

impl<const N: usize> Grid<N> {
    /// The space of `dims`, outermost first. Dimensions of one element are dropped and neighbours merged where every operand
    /// allows it.
    pub(crate) fn new(dims: impl Iterator<Item = Dim<N>>) -> Grid<N> {
        let mut grid = Grid { dims: [Dim { size: 1, strides: [0; N] }; RANK], rank: 0, len: 1 };
        for dim in dims {
            grid.len *= dim.size;
            if grid.len == 0 {
                return Grid { rank: 0, ..grid };
            }
            if dim.size == 1 {
                continue;
            }
            if let Some(last) = grid.rank.checked_sub(1).map(|i| &mut grid.dims[i])
                && (0..N).all(|k| last.strides[k] == dim.strides[k] * dim.size as isize)
            {
                *last = Dim { size: last.size * dim.size, strides: dim.strides };
                continue;
            }
            assert!(grid.rank < RANK, "an index space has more than {RANK} dimensions that cannot be merged");
            grid.dims[grid.rank] = dim;
            grid.rank += 1;
        }
        grid
    }

    /// The space of `shape`, with the strides of each operand, as launches give them.
    pub(crate) fn of(shape: &[i64], strides: [&[i64]; N]) -> Grid<N> {
        Grid::new((0..shape.len()).map(|d| Dim { size: shape[d] as usize, strides: strides.map(|s| s[d] as isize) }))
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The dimensions, outermost first, none of one element.
    pub(crate) fn dims(&self) -> &[Dim<N>] {
        &self.dims[..self.rank]
    }

    /// The innermost dimension; one element with strides of zero if there is none.
    pub(crate) fn inner(&self) -> Dim<N> {
        self.dims().last().copied().unwrap_or(Dim { size: 1, strides: [0; N] })
    }

    /// Offset in each operand of the element `index`, counted row by row.
    pub(crate) fn at(&self, index: usize) -> [isize; N] {
        let (mut rest, mut offsets) = (index, [0; N]);
        for dim in self.dims().iter().rev() {
            for (o, s) in offsets.iter_mut().zip(dim.strides) {
                *o += (rest % dim.size) as isize * s;
            }
            rest /= dim.size;
        }
        offsets
    }

    /// Visits the elements `start..start + len`, counted row by row, as runs along the innermost dimension:
    /// `visit(offsets, at, n)` gets the offsets of a run's first element, its place after `start`, and its length.
    #[inline(always)]
    pub(crate) fn runs(&self, start: usize, len: usize, mut visit: impl FnMut([isize; N], usize, usize)) {
        if len == 0 {
            return;
        }
        let inner = self.inner();
        let outer = self.rank.saturating_sub(1);
        let mut column = start % inner.size;
        let mut offsets = self.at(start - column);
        let mut place = [0; RANK];
        let mut rest = start / inner.size;
        for d in (0..outer).rev() {
            place[d] = rest % self.dims[d].size;
            rest /= self.dims[d].size;
        }
        let mut done = 0;
        loop {
            let n = (inner.size - column).min(len - done);
            let mut first = offsets;
            for (o, s) in first.iter_mut().zip(inner.strides) {
                *o += column as isize * s;
            }
            visit(first, done, n);
            done += n;
            if done == len {
                return;
            }
            column = 0;
            for d in (0..outer).rev() {
                let dim = self.dims[d];
                place[d] += 1;
                let back = if place[d] == dim.size { dim.size as isize } else { 0 };
                for (o, s) in offsets.iter_mut().zip(dim.strides) {
                    *o += (1 - back) * s;
                }
                if back == 0 {
                    break;
                }
                place[d] = 0;
            }
        }
    }
}

/// The parts of rows of `width` elements that the elements `start..start + len` are: `(row, column, at, n)` of each, where `at` counts
/// from `start`.
///
/// A loop over them is compiled with what the function around it may use, which a closure would not always be.
#[inline(always)]
pub(crate) fn rows(start: usize, len: usize, width: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let (mut row, mut column, mut done) = (start / width, start % width, 0);
    std::iter::from_fn(move || {
        let n = (width - column).min(len - done);
        let part = (row, column, done, n);
        (row, column, done) = (row + 1, 0, done + n);
        (n > 0).then_some(part)
    })
}

/// Calls `task(i)` for every `i < tasks`; a single task runs where it is asked for.
pub(crate) fn tasks(pool: &Pool, tasks: usize, task: impl Fn(usize) + Sync) {
    match tasks {
        0 => {}
        1 => task(0),
        _ => pool.run(tasks, |i, _| task(i)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_and_walks() {
        let grid = Grid::of(&[2, 1, 3, 4], [&[12, 9, 4, 1], &[0, 0, 4, 1]]);
        assert_eq!(grid.dims(), &[Dim { size: 2, strides: [12, 0] }, Dim { size: 12, strides: [1, 1] }]);
        let grid = Grid::of(&[3, 2, 5], [&[10, 5, -1], &[1, 0, 3]]);
        assert_eq!(grid.dims().len(), 3);
        for start in 0..30 {
            for len in 0..=30 - start {
                let mut seen = start;
                grid.runs(start, len, |offsets, at, n| {
                    assert_eq!(at, seen - start);
                    for i in 0..n {
                        let (a, b, c) = (seen / 10, seen / 5 % 2, seen % 5);
                        assert_eq!(offsets[0] - i as isize, (10 * a + 5 * b) as isize - c as isize);
                        assert_eq!(offsets[1] + 3 * i as isize, (a + 3 * c) as isize);
                        seen += 1;
                    }
                });
                assert_eq!(seen, start + len);
            }
        }
        assert_eq!(Grid::of(&[3, 0, 2], [&[0, 2, 1]]).len(), 0);
        assert_eq!(Grid::of(&[], [&[]]).len(), 1);
    }
}
