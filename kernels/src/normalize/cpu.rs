//! Normalisation to unit norm on a CPU: a sum of squares, then a product in chunks.

use crate::rows::{BLOCK, Squares, reduce};
use crate::simd::{Job, Real, dispatch};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("x"), T => typed::<T>(l))
}

fn typed<T: Real>(l: &Launch<'_>) {
    let x = l.write::<T>("x");
    let norm = reduce(l.pool, x.len(), |range| dispatch(Squares(&x[range]))).sqrt();
    if norm != 0.0 {
        l.pool.chunks(x, BLOCK, |_, x| dispatch(Scale { factor: 1.0 / norm, x }));
    }
}

struct Scale<'a, T> {
    factor: f64,
    x: &'a mut [T],
}

impl<T: Real> Job for Scale<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for x in self.x {
            *x = T::of(x.f64() * self.factor);
        }
    }
}
