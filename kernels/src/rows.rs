//! What kernels share that walk over rows: how rows are dealt to tasks, and sums in double precision.
//!
//! Sums run in a fixed number of `f64` lanes, so their value depends on the operands alone.

use crate::simd::{Job, LANES, Real, total};
use crate::{Pool, Stored};
use std::ops::Range;

/// Elements of a task, where there are that many: few enough to stay in a nearby cache.
pub(crate) const BLOCK: usize = 1 << 14;

/// Rows of `len` elements that one task takes.
pub(crate) fn share(len: usize) -> usize {
    (BLOCK / len.max(1)).max(1)
}

/// Adds up what `part` gives for consecutive ranges that cover `0..len`, in their order.
pub(crate) fn reduce(pool: &Pool, len: usize, part: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
    const PARTS: usize = 128;
    let block = len.div_ceil(PARTS).next_multiple_of(LANES).max(BLOCK);
    let mut parts = [0.0; PARTS];
    let parts = &mut parts[..len.div_ceil(block)];
    pool.chunks(parts, 1, |i, out| out[0] = part(i * block..len.min((i + 1) * block)));
    parts.iter().sum()
}

/// The sum of `x`.
#[inline(always)]
pub(crate) fn sum<T: Real, X: Stored<T>>(x: &[X]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] += x[i].wide().f64();
        }
    }
    total(lanes) + rest.iter().map(|x| x.wide().f64()).sum::<f64>()
}

/// The sum of `(x - center)^2`.
#[inline(always)]
pub(crate) fn spread<T: Real, X: Stored<T>, const FMA: bool>(x: &[X], center: f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            let d = x[i].wide().f64() - center;
            lanes[i] = d.madd::<FMA>(d, lanes[i]);
        }
    }
    let mut tail = 0.0;
    for x in rest {
        let d = x.wide().f64() - center;
        tail = d.madd::<FMA>(d, tail);
    }
    total(lanes) + tail
}

/// The sum of `a * b`.
#[inline(always)]
pub(crate) fn product_sum<T: Real, const FMA: bool>(a: &[T], b: &[T]) -> f64 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = a[i].f64().madd::<FMA>(b[i].f64(), lanes[i]);
        }
    }
    let mut tail = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        tail = a.f64().madd::<FMA>(b.f64(), tail);
    }
    total(lanes) + tail
}

/// A vector of elements of an optional factor from `start` on, or `absent`.
#[inline(always)]
fn lanes_at<'a, T>(values: Option<&'a [T]>, start: usize, absent: &'a [T; LANES]) -> &'a [T; LANES] {
    values.and_then(|values| values.get(start..)?.first_chunk()).unwrap_or(absent)
}

/// One element of an optional factor.
#[inline(always)]
pub(crate) fn one_at<T: Real>(values: Option<&[T]>, at: usize, absent: f64) -> f64 {
    values.map_or(absent, |values| values[at].f64())
}

/// A mean in two parts, which are subtracted one after the other: numbers far from zero and near their mean keep what is between them.
#[inline(always)]
pub(crate) fn parts<T: Real>(mean: f64) -> [T; 2] {
    let high = T::of(mean);
    [high, T::of(mean - high.f64())]
}

/// The sums of `dy * scale` and of `dy * scale * (x - center)`; `scale` has an element for each of `x`, or is one.
#[inline(always)]
pub(crate) fn gradient_sums<T: Real, X: Stored<T>, const FMA: bool>(
    x: &[X],
    dy: &[T],
    scale: Option<&[T]>,
    center: f64,
) -> (f64, f64) {
    let scale = scale.map(|scale| &scale[..x.len()]);
    let (mut plain, mut tilted, one) = ([0.0; LANES], [0.0; LANES], [T::of(1.0); LANES]);
    let ((x_chunks, x_rest), (dy_chunks, dy_rest)) = (x.as_chunks::<LANES>(), dy.as_chunks::<LANES>());
    for (k, (x, dy)) in x_chunks.iter().zip(dy_chunks).enumerate() {
        let scale = lanes_at(scale, k * LANES, &one);
        for i in 0..LANES {
            let d = dy[i].f64() * scale[i].f64();
            plain[i] += d;
            tilted[i] = d.madd::<FMA>(x[i].wide().f64() - center, tilted[i]);
        }
    }
    let (mut plain, mut tilted) = (total(plain), total(tilted));
    let done = x.len() - x_rest.len();
    for (k, (x, dy)) in x_rest.iter().zip(dy_rest).enumerate() {
        let d = dy.f64() * one_at(scale, done + k, 1.0);
        plain += d;
        tilted = d.madd::<FMA>(x.wide().f64() - center, tilted);
    }
    (plain, tilted)
}

/// The sum of squares.
pub(crate) struct Squares<'a, T>(pub(crate) &'a [T]);

impl<T: Real> Job for Squares<'_, T> {
    type Out = f64;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        spread::<T, T, FMA>(self.0, 0.0)
    }
}
