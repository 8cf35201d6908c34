//! Resampling on a CPU.

use crate::grid::{GRAIN, rows};
use crate::simd::{Job, Real, axpy, dispatch};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    let table = Table::of(l);
    for_float!(l.dtype("x"), T => {
        let x = l.read::<T>("x");
        l.pool.chunks(l.write::<T>("y"), GRAIN, |i, y| dispatch(Part { table, x, start: i * GRAIN, y }));
    });
}

/// What to take for each result, and the extents of the operands.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    index: &'a [i32],
    weight: &'a [f32],
    taps: usize,
    pub(crate) n_in: usize,
    pub(crate) n_out: usize,
    pub(crate) inner: usize,
}

impl<'a> Table<'a> {
    /// The table of a launch of `resample` or of its gradient.
    pub(crate) fn of(l: &Launch<'a>) -> Table<'a> {
        Table {
            index: l.read("index"),
            weight: l.read("weight"),
            taps: l.int("taps"),
            n_in: l.int("n_in"),
            n_out: l.int("n_out"),
            inner: l.int("inner"),
        }
    }

    /// `(row, weight)` of the taps of result `j`.
    #[inline(always)]
    pub(crate) fn taps(&self, j: usize) -> impl Iterator<Item = (usize, f64)> + use<'a> {
        let range = j * self.taps..(j + 1) * self.taps;
        let taps = self.index[range.clone()].iter().zip(&self.weight[range]);
        taps.filter(|(index, _)| **index >= 0).map(|(index, weight)| (*index as usize, f64::from(*weight)))
    }
}

/// The results from `start` on that `y` has room for.
struct Part<'a, T> {
    table: Table<'a>,
    x: &'a [T],
    start: usize,
    y: &'a mut [T],
}

impl<T: Real> Job for Part<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Part { table, x, start, y } = self;
        let Table { n_in, n_out, inner, .. } = table;
        if inner == 1 {
            for (outer, column, at, n) in rows(start, y.len(), n_out) {
                let x = &x[outer * n_in..][..n_in];
                for (j, y) in (column..).zip(&mut y[at..][..n]) {
                    let mut sum = T::of(0.0);
                    for (from, weight) in table.taps(j) {
                        sum = T::of(weight).madd::<FMA>(x[from], sum);
                    }
                    *y = sum;
                }
            }
            return;
        }
        for (line, column, at, n) in rows(start, y.len(), inner) {
            let (outer, j) = (line / n_out, line % n_out);
            let y = &mut y[at..][..n];
            y.fill(T::of(0.0));
            for (from, weight) in table.taps(j) {
                axpy::<T, FMA>(T::of(weight), &x[(outer * n_in + from) * inner + column..][..n], y);
            }
        }
    }
}
