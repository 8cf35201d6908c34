//! Softmax on a CPU: one task for several slabs [n, inner].

use crate::rows::share;
use crate::simd::{Job, LANES, Real, dispatch, total};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("y"), T => typed::<T>(l))
}

fn typed<T: Real>(l: &Launch<'_>) {
    let (n, inner) = (l.int("n"), l.int("inner"));
    let x = l.read::<T>("x");
    let chunk = share(n * inner) * n * inner;
    l.pool.chunks(l.write::<T>("y"), chunk, |i, y| {
        dispatch(Slabs { n, inner, x: &x[i * chunk..][..y.len()], y });
    });
}

struct Slabs<'a, T> {
    n: usize,
    inner: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Real> Job for Slabs<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Slabs { n, inner, x, y } = self;
        for (x, y) in x.chunks_exact(n * inner).zip(y.chunks_exact_mut(n * inner)) {
            if inner == 1 {
                line::<T, FMA>(x, y);
                continue;
            }
            let mut first = 0;
            while first + LANES <= inner {
                strip::<T, FMA, LANES>(x, y, inner, first);
                first += LANES;
            }
            while first < inner {
                strip::<T, FMA, 1>(x, y, inner, first);
                first += 1;
            }
        }
    }
}

/// The larger of two. A NaN may get lost here: it comes back with its own exponential, and with it in the sum.
#[inline(always)]
fn higher<T: Real>(a: T, b: T) -> T {
    if a > b { a } else { b }
}

/// What is subtracted from a line whose largest element is `high`.
#[inline(always)]
fn shift<T: Real>(high: T) -> T {
    // Without any score the exponentials are zero whatever is subtracted, if it is finite.
    if high == T::LOWEST { T::of(0.0) } else { high }
}

/// What the exponentials are multiplied by.
#[inline(always)]
fn factor<T: Real>(sum: f64) -> T {
    T::of(if sum == 0.0 { 0.0 } else { 1.0 / sum })
}

/// One line that is contiguous.
#[inline(always)]
fn line<T: Real, const FMA: bool>(x: &[T], y: &mut [T]) {
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let mut lanes = [T::LOWEST; LANES];
    for x in x_chunks {
        for i in 0..LANES {
            lanes[i] = higher(lanes[i], x[i]);
        }
    }
    let high = lanes.iter().chain(x_rest).fold(T::LOWEST, |a, &b| higher(a, b));
    let high = shift(high);
    let (y_chunks, y_rest) = y.as_chunks_mut::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        let mut e = [T::of(0.0); LANES];
        for i in 0..LANES {
            e[i] = (x[i] - high).exp_lane::<FMA>();
        }
        for i in 0..LANES {
            sums[i] += e[i].f64();
        }
        *y = e;
    }
    let mut sum = total(sums);
    for (&x, y) in x_rest.iter().zip(y_rest) {
        *y = (x - high).exp_lane::<FMA>();
        sum += y.f64();
    }
    let factor = factor::<T>(sum);
    for y in y {
        *y *= factor;
    }
}

/// `W` neighbouring lines with steps of `inner`.
#[inline(always)]
fn strip<T: Real, const FMA: bool, const W: usize>(x: &[T], y: &mut [T], inner: usize, first: usize) {
    let mut high = [T::LOWEST; W];
    for x in x.chunks_exact(inner) {
        let x = &x[first..][..W];
        for i in 0..W {
            high[i] = higher(high[i], x[i]);
        }
    }
    let high = high.map(shift);
    let mut sums = [0.0; W];
    for (x, y) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)) {
        let x = &x[first..][..W];
        let mut e = [T::of(0.0); W];
        for i in 0..W {
            e[i] = (x[i] - high[i]).exp_lane::<FMA>();
        }
        for i in 0..W {
            sums[i] += e[i].f64();
        }
        y[first..][..W].copy_from_slice(&e);
    }
    let factors = sums.map(factor::<T>);
    for y in y.chunks_exact_mut(inner) {
        for (y, &f) in y[first..][..W].iter_mut().zip(&factors) {
            *y *= f;
        }
    }
}
