//! Gradient of softmax on a CPU: one task for several slabs [n, inner].

use crate::rows::{product_sum, share};
use crate::simd::{Job, LANES, Real, dispatch};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dx"), T => typed::<T>(l))
}

fn typed<T: Real>(l: &Launch<'_>) {
    let (n, inner) = (l.int("n"), l.int("inner"));
    let (y, dy) = (l.read::<T>("y"), l.read::<T>("dy"));
    let chunk = share(n * inner) * n * inner;
    l.pool.chunks(l.write::<T>("dx"), chunk, |i, dx| {
        let range = i * chunk..i * chunk + dx.len();
        dispatch(Slabs { n, inner, y: &y[range.clone()], dy: &dy[range], dx });
    });
}

struct Slabs<'a, T> {
    n: usize,
    inner: usize,
    y: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Job for Slabs<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Slabs { n, inner, y, dy, dx } = self;
        let slab = n * inner;
        for ((y, dy), dx) in y.chunks_exact(slab).zip(dy.chunks_exact(slab)).zip(dx.chunks_exact_mut(slab)) {
            if inner == 1 {
                let sum = product_sum::<T, FMA>(y, dy);
                for ((&y, &dy), dx) in y.iter().zip(dy).zip(dx) {
                    *dx = T::of(y.f64() * (dy.f64() - sum));
                }
                continue;
            }
            let mut first = 0;
            while first + LANES <= inner {
                strip::<T, FMA, LANES>(y, dy, dx, inner, first);
                first += LANES;
            }
            while first < inner {
                strip::<T, FMA, 1>(y, dy, dx, inner, first);
                first += 1;
            }
        }
    }
}

/// `W` neighbouring lines with steps of `inner`.
#[inline(always)]
fn strip<T: Real, const FMA: bool, const W: usize>(y: &[T], dy: &[T], dx: &mut [T], inner: usize, first: usize) {
    let mut sums = [0.0; W];
    for (y, dy) in y.chunks_exact(inner).zip(dy.chunks_exact(inner)) {
        let (y, dy) = (&y[first..][..W], &dy[first..][..W]);
        for i in 0..W {
            sums[i] = y[i].f64().madd::<FMA>(dy[i].f64(), sums[i]);
        }
    }
    for ((y, dy), dx) in y.chunks_exact(inner).zip(dy.chunks_exact(inner)).zip(dx.chunks_exact_mut(inner)) {
        let (y, dy, dx) = (&y[first..][..W], &dy[first..][..W], &mut dx[first..][..W]);
        for i in 0..W {
            dx[i] = T::of(y[i].f64() * (dy[i].f64() - sums[i]));
        }
    }
}
