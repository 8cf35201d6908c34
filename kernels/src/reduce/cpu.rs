//! Reductions on a CPU: along rows where the innermost axis is reduced, across rows where it stays.

use crate::grid::{Dim, Grid};
use crate::rows::share;
use crate::simd::{Job, LANES, Real, dispatch};
use crate::{Call, DType, Launch, for_element, for_float};
use std::marker::PhantomData;

/// Results that are accumulated side by side where the innermost axis stays.
const WIDTH: usize = 256;
/// Parts of one reduction that are computed side by side where there are few results.
const PARTS: usize = 64;

pub(super) fn run(l: &Launch<'_>) {
    let op = l.word("op");
    match l.dtype("x") {
        DType::F32 | DType::F64 => for_float!(l.dtype("x"), T => match op {
            "sum" => floats::<T, Sum>(l, |sum, _| sum),
            "mean" => floats::<T, Sum>(l, |sum, count| sum / count as f64),
            "prod" => floats::<T, Product>(l, |product, _| product),
            "max" => floats::<T, Max>(l, |max, _| max),
            "min" => floats::<T, Min>(l, |min, _| min),
            _ => unreachable!("`{op}` is no reduction"),
        }),
        _ => integers(l, op),
    }
}

/// The axes that stay and those that are reduced, with the distances in `x`.
pub(super) fn split(l: &Call<'_>) -> [Grid<1>; 2] {
    let (shape, axes) = (l.ints("shape"), l.ints("axes"));
    let stride = |d: usize| shape[d + 1..].iter().product::<i64>() as isize;
    [false, true].map(|reduced| {
        let dims = (0..shape.len()).filter(|d| axes.contains(&(*d as i64)) == reduced);
        Grid::new(dims.map(|d| Dim { size: shape[d] as usize, strides: [stride(d)] }))
    })
}

/// Integers are few (shapes and indices), so one thread reduces them, wide enough to be exact before they wrap.
fn integers(l: &Launch<'_>, op: &str) {
    let [kept, reduced] = split(l);
    for_element!(l.dtype("x"), T => {
        let x = l.read::<T>("x");
        let (start, join): (i128, fn(i128, i128) -> i128) = match op {
            "sum" | "mean" => (0, i128::wrapping_add),
            "prod" => (1, i128::wrapping_mul),
            "max" => (T::MIN as i128, Ord::max),
            "min" => (T::MAX as i128, Ord::min),
            _ => unreachable!("`{op}` is no reduction"),
        };
        for (i, y) in l.write::<T>("y").iter_mut().enumerate() {
            let [from] = kept.at(i);
            let values = (0..reduced.len()).map(|r| x[(from + reduced.at(r)[0]) as usize] as i128);
            let total = values.fold(start, join);
            *y = if op == "mean" { total / (reduced.len() as i128).max(1) } else { total } as T;
        }
    });
}

/// An associative function that numbers are joined by.
trait Fold: Sync {
    /// What nothing reduces to.
    const START: f64;
    /// Joins two numbers.
    fn join(a: f64, b: f64) -> f64;
}

macro_rules! folds {
    ($($name:ident: $start:expr, |$a:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl Fold for $name {
            const START: f64 = $start;
            #[inline(always)]
            fn join($a: f64, $b: f64) -> f64 {
                $body
            }
        }
    )*};
}
folds! {
    Sum: 0.0, |a, b| a + b;
    Product: 1.0, |a, b| a * b;
    Max: f64::NEG_INFINITY, |a, b| if a.is_nan() || a > b { a } else { b };
    Min: f64::INFINITY, |a, b| if a.is_nan() || a < b { a } else { b };
}

fn floats<T: Real, F: Fold>(l: &Launch<'_>, finish: impl Fn(f64, usize) -> f64 + Sync) {
    let (x, y) = (l.read::<T>("x"), l.write::<T>("y"));
    let [kept, reduced] = &split(l);
    let finish = |total: f64| T::of(finish(total, reduced.len()));
    if reduced.len() == 0 {
        y.fill(finish(F::START));
    } else if kept.inner().strides == [1] {
        l.pool.chunks(y, WIDTH, |i, y| {
            let mut totals = [F::START; WIDTH];
            let totals = &mut totals[..y.len()];
            dispatch(Across::<T, F> { x, kept, reduced, start: i * WIDTH, totals, fold: PhantomData });
            for (y, &total) in y.iter_mut().zip(&*totals) {
                *y = finish(total);
            }
        });
    } else if y.len() < PARTS && reduced.len() > PARTS * WIDTH {
        let part = reduced.len().div_ceil(PARTS);
        for (i, y) in y.iter_mut().enumerate() {
            let mut totals = [F::START; PARTS];
            let [from] = kept.at(i);
            l.pool.chunks(&mut totals, 1, |p, total| {
                let start = (p * part).min(reduced.len());
                let len = part.min(reduced.len() - start);
                total[0] = dispatch(Along::<T, F> { x, from, reduced, start, len, fold: PhantomData });
            });
            *y = finish(totals.into_iter().fold(F::START, F::join));
        }
    } else {
        let rows = share(reduced.len());
        l.pool.chunks(y, rows, |task, y| {
            for (i, y) in y.iter_mut().enumerate() {
                let [from] = kept.at(task * rows + i);
                let len = reduced.len();
                let job = Along::<T, F> { x, from, reduced, start: 0, len, fold: PhantomData };
                *y = finish(dispatch(job));
            }
        });
    }
}

/// Results `start..`, side by side.
struct Across<'a, T, F> {
    x: &'a [T],
    kept: &'a Grid<1>,
    reduced: &'a Grid<1>,
    start: usize,
    totals: &'a mut [f64],
    fold: PhantomData<F>,
}

impl<T: Real, F: Fold> Job for Across<'_, T, F> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Across { x, kept, reduced, start, totals, .. } = self;
        kept.runs(start, totals.len(), |[from], at, n| {
            let totals = &mut totals[at..][..n];
            reduced.runs(0, reduced.len(), |[first], _, count| {
                let [stride] = reduced.inner().strides;
                for i in 0..count {
                    let x = &x[(from + first + i as isize * stride) as usize..][..n];
                    for (total, x) in totals.iter_mut().zip(x) {
                        *total = F::join(*total, x.f64());
                    }
                }
            });
        });
    }
}

/// One result, from `len` of its elements.
struct Along<'a, T, F> {
    x: &'a [T],
    from: isize,
    reduced: &'a Grid<1>,
    start: usize,
    len: usize,
    fold: PhantomData<F>,
}

impl<T: Real, F: Fold> Job for Along<'_, T, F> {
    type Out = f64;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let Along { x, from, reduced, start, len, .. } = self;
        let mut lanes = [F::START; LANES];
        let [stride] = reduced.inner().strides;
        reduced.runs(start, len, |[first], _, n| {
            let first = (from + first) as usize;
            if stride == 1 {
                let (chunks, rest) = x[first..][..n].as_chunks::<LANES>();
                for x in chunks {
                    for i in 0..LANES {
                        lanes[i] = F::join(lanes[i], x[i].f64());
                    }
                }
                for (lane, x) in lanes.iter_mut().zip(rest) {
                    *lane = F::join(*lane, x.f64());
                }
            } else {
                for i in 0..n {
                    lanes[i % LANES] = F::join(lanes[i % LANES], x[first + i * stride as usize].f64());
                }
            }
        });
        lanes.into_iter().fold(F::START, F::join)
    }
}
