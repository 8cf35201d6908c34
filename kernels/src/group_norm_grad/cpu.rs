//! Gradient of group normalisation on a CPU: one task for one group, or for several where they are small.

use crate::group_norm::Shape;
use crate::rows::{gradient_sums, one_at, share};
use crate::simd::{Job, Real, dispatch};
use crate::{Launch, Stored, for_rounded};

pub(super) fn run(l: &Launch<'_>) {
    for_rounded!(l.dtype("x"), T, X => typed::<T, X>(l))
}

fn typed<T: Real, X: Stored<T>>(l: &Launch<'_>) {
    let s = Shape::of(l);
    let (x, dy, scale) = (l.read::<X>("x"), l.read::<T>("dy"), l.read_if::<T>("scale"));
    let (mean, rstd) = (l.read::<T>("mean"), l.read::<T>("rstd"));
    let len = s.group();
    let block = share(len);
    l.pool.chunks(l.write::<T>("dx"), block * len, |task, dx| {
        for (k, dx) in dx.chunks_exact_mut(len).enumerate() {
            let group = task * block + k;
            dispatch(Group {
                inner: s.inner,
                channel: group % s.groups * s.depth(),
                mean: mean[group].f64(),
                rstd: rstd[group].f64(),
                x: &x[group * len..][..len],
                dy: &dy[group * len..][..len],
                scale,
                dx,
            });
        }
    });
}

struct Group<'a, T, X> {
    inner: usize,
    /// First channel.
    channel: usize,
    mean: f64,
    rstd: f64,
    x: &'a [X],
    dy: &'a [T],
    scale: Option<&'a [T]>,
    dx: &'a mut [T],
}

impl<T: Real, X: Stored<T>> Job for Group<'_, T, X> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Group { inner, channel, mean, rstd, x, dy, scale, dx } = self;
        let (mut plain, mut tilted) = (0.0, 0.0);
        for (k, (x, dy)) in x.chunks_exact(inner).zip(dy.chunks_exact(inner)).enumerate() {
            let scale = one_at(scale, channel + k, 1.0);
            let sums = gradient_sums::<T, X, FMA>(x, dy, None, mean);
            plain += scale * sums.0;
            tilted += scale * sums.1;
        }
        // dx = a * dy + b * (x - mean) + c
        let count = x.len() as f64;
        let b = -rstd * rstd * rstd * tilted / count;
        let c = -rstd * plain / count;
        let planes = x.chunks_exact(inner).zip(dy.chunks_exact(inner));
        for (k, ((x, dy), dx)) in planes.zip(dx.chunks_exact_mut(inner)).enumerate() {
            let a = rstd * one_at(scale, channel + k, 1.0);
            for ((&x, &dy), dx) in x.iter().zip(dy).zip(dx) {
                *dx = T::of(a.madd::<FMA>(dy.f64(), b.madd::<FMA>(x.wide().f64() - mean, c)));
            }
        }
    }
}
