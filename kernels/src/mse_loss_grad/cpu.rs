//! Gradient of the mean squared error on a CPU, in chunks.

use crate::rows::BLOCK;
use crate::simd::{Job, Real, dispatch};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dx"), T => typed::<T>(l))
}

fn typed<T: Real>(l: &Launch<'_>) {
    let (x, t) = (l.read::<T>("x"), l.read::<T>("t"));
    let factor = 2.0 / x.len() as f64;
    l.pool.chunks(l.write::<T>("dx"), BLOCK, |i, dx| {
        let range = i * BLOCK..i * BLOCK + dx.len();
        dispatch(Chunk { factor, x: &x[range.clone()], t: &t[range], dx });
    });
}

struct Chunk<'a, T> {
    factor: f64,
    x: &'a [T],
    t: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Job for Chunk<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((&x, &t), dx) in self.x.iter().zip(self.t).zip(self.dx) {
            *dx = T::of((x.f64() - t.f64()) * self.factor);
        }
    }
}
