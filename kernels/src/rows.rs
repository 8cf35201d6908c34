//! What kernels share that walk over rows: how rows are dealt to tasks, and sums in double precision.
//!
//! Sums run in a fixed number of lanes, so their value depends on the operands alone. Those of normalisations add up a few vectors in the
//! precision of their operands before they add to `f64`.

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

/// Vectors that are added up in the precision of operands: a few terms of a lane, whose rounding is that of a term.
const RUN: usize = 8;

/// Adds sums of a run to those of all.
#[inline(always)]
fn collect<T: Real>(run: &[T; LANES], lanes: &mut [f64; LANES]) {
    for i in 0..LANES {
        lanes[i] += run[i].f64();
    }
}

/// The sums of `x - center` and of its square.
#[inline(always)]
fn deviations<T: Real, X: Stored<T>, const FMA: bool>(x: &[X], center: T) -> [f64; 2] {
    let (mut plain, mut squares) = ([0.0; LANES], [0.0; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunks in chunks.chunks(RUN) {
        let mut run = [[T::of(0.0); LANES]; 2];
        for x in chunks {
            for i in 0..LANES {
                let d = x[i].wide() - center;
                run[0][i] += d;
                run[1][i] = d.madd::<FMA>(d, run[1][i]);
            }
        }
        collect(&run[0], &mut plain);
        collect(&run[1], &mut squares);
    }
    let (mut plain, mut squares) = (total(plain), total(squares));
    for x in rest {
        let d = x.wide().f64() - center.f64();
        plain += d;
        squares = d.madd::<FMA>(d, squares);
    }
    [plain, squares]
}

/// The mean of the squares of `x`.
#[inline(always)]
pub(crate) fn mean_square<T: Real, X: Stored<T>, const FMA: bool>(x: &[X]) -> f64 {
    deviations::<T, X, FMA>(x, T::of(0.0))[1] / x.len().max(1) as f64
}

/// Elements whose mean stands for that of all when deviations are taken.
const SAMPLE: usize = RUN * LANES;

/// Mean and variance of `x`, read once. Deviations are taken from the mean of the first elements, and both are put right by their sum:
/// numbers far from zero and near their mean keep what is between them. However the first elements lie, the square of what the sample's
/// mean is off is below the variance times `n / SAMPLE`, which bounds what cancels.
#[inline(always)]
pub(crate) fn moments<T: Real, X: Stored<T>, const FMA: bool>(x: &[X]) -> (f64, f64) {
    let sample = &x[..x.len().min(SAMPLE)];
    let near = T::of(deviations::<T, X, FMA>(sample, T::of(0.0))[0] / sample.len().max(1) as f64);
    let size = x.len().max(1) as f64;
    let [plain, squares] = deviations::<T, X, FMA>(x, near).map(|sum| sum / size);
    (near.f64() + plain, (squares - plain * plain).max(0.0))
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
pub(crate) fn lanes_at<'a, T>(values: Option<&'a [T]>, start: usize, absent: &'a [T; LANES]) -> &'a [T; LANES] {
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
    center: T,
) -> (f64, f64) {
    let (mut plain, mut tilted, one) = ([0.0; LANES], [0.0; LANES], [T::of(1.0); LANES]);
    let ((x_chunks, x_rest), (dy_chunks, dy_rest)) = (x.as_chunks::<LANES>(), dy.as_chunks::<LANES>());
    for (r, (x, dy)) in x_chunks.chunks(RUN).zip(dy_chunks.chunks(RUN)).enumerate() {
        let mut run = [[T::of(0.0); LANES]; 2];
        for (k, (x, dy)) in x.iter().zip(dy).enumerate() {
            let scale = lanes_at(scale, (r * RUN + k) * LANES, &one);
            for i in 0..LANES {
                let d = dy[i] * scale[i];
                run[0][i] += d;
                run[1][i] = d.madd::<FMA>(x[i].wide() - center, run[1][i]);
            }
        }
        collect(&run[0], &mut plain);
        collect(&run[1], &mut tilted);
    }
    let (mut plain, mut tilted) = (total(plain), total(tilted));
    let done = x.len() - x_rest.len();
    for (k, (x, dy)) in x_rest.iter().zip(dy_rest).enumerate() {
        let d = dy.f64() * one_at(scale, done + k, 1.0);
        plain += d;
        tilted = d.madd::<FMA>(x.wide().f64() - center.f64(), tilted);
    }
    (plain, tilted)
}

/// The sum of squares, in double precision throughout: squares of small gradients are below what other floats hold.
pub(crate) struct Squares<'a, T>(pub(crate) &'a [T]);

impl<T: Real> Job for Squares<'_, T> {
    type Out = f64;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        product_sum::<T, FMA>(self.0, self.0)
    }
}
