//! Gradient of group normalisation's scale and bias on a CPU: one task for several channels.

use crate::group_norm::Shape;
use crate::rows::{gradient_sums, share};
use crate::simd::{Job, Real, dispatch};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dscale"), T => typed::<T>(l))
}

#[expect(unsafe_code, reason = "tasks write disjoint channels")]
fn typed<T: Real>(l: &Launch<'_>) {
    let shape = Shape::of(l);
    let (x, dy) = (l.read::<T>("x"), l.read::<T>("dy"));
    let (mean, rstd) = (l.read::<T>("mean"), l.read::<T>("rstd"));
    let (dscale, dbias) = (l.shared::<T>("dscale"), l.shared::<T>("dbias"));
    let block = share(shape.n * shape.inner);
    l.pool.run(shape.channels.div_ceil(block), |task, _| {
        let first = task * block;
        let count = block.min(shape.channels - first);
        // SAFETY: each channel belongs to one task.
        let (dscale, dbias) = unsafe { (dscale.range(first, count), dbias.range(first, count)) };
        dispatch(Channels { shape, first, x, dy, mean, rstd, dscale, dbias });
    });
}

struct Channels<'a, T> {
    shape: Shape,
    first: usize,
    x: &'a [T],
    dy: &'a [T],
    mean: &'a [T],
    rstd: &'a [T],
    dscale: &'a mut [T],
    dbias: &'a mut [T],
}

impl<T: Real> Job for Channels<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Channels { shape, first, x, dy, mean, rstd, dscale, dbias } = self;
        let Shape { n, channels, groups, inner } = shape;
        for (k, (dscale, dbias)) in dscale.iter_mut().zip(dbias).enumerate() {
            let channel = first + k;
            let (mut scale, mut bias) = (0.0, 0.0);
            for image in 0..n {
                let group = image * groups + channel / shape.depth();
                let start = (image * channels + channel) * inner;
                let (x, dy) = (&x[start..][..inner], &dy[start..][..inner]);
                let (plain, tilted) = gradient_sums::<T, T, FMA>(x, dy, None, mean[group].f64());
                scale += tilted * rstd[group].f64();
                bias += plain;
            }
            *dscale = T::of(scale);
            *dbias = T::of(bias);
        }
    }
}
