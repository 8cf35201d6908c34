//! Group normalisation on a CPU: one task for one group, or for several where they are small.

use super::Shape;
use crate::rows::{one_at, parts, share, spread, sum};
use crate::simd::{Job, Real, dispatch};
use crate::{Launch, Stored, for_rounded_pair};

pub(super) fn run(l: &Launch<'_>) {
    for_rounded_pair!(l.dtype("x"), l.dtype("y"), T, X, Y => typed::<T, X, Y>(l))
}

#[expect(unsafe_code, reason = "tasks write disjoint groups")]
fn typed<T: Real, X: Stored<T>, Y: Stored<T>>(l: &Launch<'_>) {
    let s = Shape::of(l);
    let x = l.read::<X>("x");
    let (scale, bias) = (l.read_if::<T>("scale"), l.read_if::<T>("bias"));
    let (y, mean, rstd) = (l.shared::<Y>("y"), l.shared::<T>("mean"), l.shared::<T>("rstd"));
    let epsilon = l.float("epsilon");
    let (groups, len) = (s.n * s.groups, s.group());
    let block = share(len);
    l.pool.run(groups.div_ceil(block), |task, _| {
        for group in task * block..groups.min((task + 1) * block) {
            // SAFETY: each group belongs to one task.
            let (y, mean, rstd) = unsafe { (y.range(group * len, len), mean.range(group, 1), rstd.range(group, 1)) };
            let channel = group % s.groups * s.depth();
            let x = &x[group * len..][..len];
            (mean[0], rstd[0]) = dispatch(Group { inner: s.inner, channel, epsilon, x, scale, bias, y });
        }
    });
}

struct Group<'a, T, X, Y> {
    inner: usize,
    /// First channel.
    channel: usize,
    epsilon: f64,
    x: &'a [X],
    scale: Option<&'a [T]>,
    bias: Option<&'a [T]>,
    y: &'a mut [Y],
}

impl<T: Real, X: Stored<T>, Y: Stored<T>> Job for Group<'_, T, X, Y> {
    type Out = (T, T);
    #[inline(always)]
    fn run<const FMA: bool>(self) -> (T, T) {
        let Group { inner, channel, epsilon, x, scale, bias, y } = self;
        let count = x.len().max(1) as f64;
        let mean = sum::<T, X>(x) / count;
        let rstd = 1.0 / (spread::<T, X, FMA>(x, mean) / count + epsilon).sqrt();
        let [high, low] = parts::<T>(mean);
        let plane = inner.max(1);
        for (k, (x, y)) in x.chunks_exact(plane).zip(y.chunks_exact_mut(plane)).enumerate() {
            let factor = T::of(rstd * one_at(scale, channel + k, 1.0));
            let bias = T::of(one_at(bias, channel + k, 0.0));
            for (&x, y) in x.iter().zip(y) {
                *y = Y::narrow((x.wide() - high - low).madd::<FMA>(factor, bias));
            }
        }
        (T::of(mean), T::of(rstd))
    }
}
