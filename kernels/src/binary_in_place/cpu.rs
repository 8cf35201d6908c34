//! Sums and products in place on a CPU.

use crate::grid::{GRAIN, Grid};
use crate::simd::{Job, Real, dispatch};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("y"), T => typed::<T>(l));
}

fn typed<T: Real>(l: &Launch<'_>) {
    match l.word("op") {
        "add" => map(l, |y: T, b: T| y + b),
        "mul" => map(l, |y: T, b: T| y * b),
        op => unreachable!("`{op}` is not computed in place"),
    }
}

fn map<T: Real>(l: &Launch<'_>, f: impl Fn(T, T) -> T + Copy + Sync) {
    let b = l.read::<T>("b");
    let grid = &Grid::of(l.ints("shape"), [l.ints("b_strides")]);
    l.pool.chunks(l.write::<T>("y"), GRAIN, |i, y| dispatch(Part { f, b, grid, start: i * GRAIN, y }));
}

/// The results from `start` on that `y` has room for.
struct Part<'a, T, F> {
    f: F,
    b: &'a [T],
    grid: &'a Grid<1>,
    start: usize,
    y: &'a mut [T],
}

impl<T: Real, F: Fn(T, T) -> T> Job for Part<'_, T, F> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Part { f, b, grid, start, y } = self;
        let [stride] = grid.inner().strides;
        grid.runs(start, y.len(), |[from], at, n| {
            let y = &mut y[at..][..n];
            let b = &b[from as usize..];
            match stride {
                1 => {
                    for (y, &b) in y.iter_mut().zip(&b[..n]) {
                        *y = f(*y, b);
                    }
                }
                0 => {
                    let b = b[0];
                    for y in y {
                        *y = f(*y, b);
                    }
                }
                stride => {
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = f(*y, b[i * stride as usize]);
                    }
                }
            }
        });
    }
}
