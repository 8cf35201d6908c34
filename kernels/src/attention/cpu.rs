//! Attention on a CPU: one task for each block of queries, which visits the keys in blocks and keeps a running maximum and
//! sum. Scores are held with the query fastest, so that neither product needs its operands turned and the softmax runs
//! along vector lanes.

use super::{Shape, half};
use crate::product::{Dims, Mat, product};
use crate::simd::{Job, LANES, Real, Turn, dispatch};
use crate::{DType, Launch, for_float, scratch_parts};

/// Queries of a block at most.
const QUERIES: usize = 64;
/// Keys of a block.
const KEYS: usize = 256;

pub(super) fn run(l: &Launch<'_>) {
    let half = l.int("half") != 0 && l.dtype("lse") == DType::F32;
    match half::Blocks::of(&Shape::of(l), l.pool.threads()).filter(|_| half) {
        Some(blocks) => half::run(l, blocks),
        None => {
            let rounded = ["q", "k", "v", "y"].iter().any(|name| l.dtype(name) == DType::Bf16);
            assert!(
                !rounded,
                "rounded operands are those of products of half precision, of heads that are not too wide"
            );
            for_float!(l.dtype("lse"), T => typed::<T>(l));
        }
    }
}

#[expect(unsafe_code, reason = "tasks write disjoint rows of the result")]
fn typed<T: Real>(l: &Launch<'_>) {
    let s = Shape::of(l);
    let (q, k, v, mask) = (l.read::<T>("q"), l.read::<T>("k"), l.read::<T>("v"), l.read_if::<T>("mask"));
    let (y, lse) = (l.shared::<T>("y"), l.shared::<T>("lse"));
    let scale = T::of(l.float("scale"));
    let (dim, value_dim) = (s.dim, s.value_dim);
    let (zero, one) = (T::of(0.0), T::of(1.0));
    let blocks = s.queries.div_ceil(QUERIES);
    l.pool.run(s.images() * blocks, |task, bytes| {
        let (image, from) = (task / blocks, task % blocks * QUERIES);
        let count = QUERIES.min(s.queries - from);
        let lanes = count.next_multiple_of(LANES);
        let parts = [lanes * dim, lanes * value_dim, lanes * KEYS, lanes, lanes, lanes];
        let [turned, sums, scores, top, total, decay] = scratch_parts::<T, 6>(bytes, parts);
        let row = image * s.queries + from;
        turned.fill(zero);
        dispatch(Turn {
            source: &q[row * dim..],
            source_row: dim,
            rows: count,
            cols: dim,
            target: &mut *turned,
            target_row: lanes,
        });
        sums.fill(zero);
        top.fill(T::LOWEST);
        total.fill(zero);
        for start in (0..s.keys).step_by(KEYS) {
            let keys = KEYS.min(s.keys - start);
            let at = image * s.keys + start;
            let (a, b) = (Mat::new(&k[at * dim..], dim, 1), Mat::new(&*turned, lanes, 1));
            product(Dims { m: keys, n: lanes, k: dim }, scale, a, b, zero, scores, [lanes, 1]);
            if let Some(mask) = mask {
                let [_, _, query_stride, key_stride] = s.mask_strides;
                let mask = &mask[s.mask_start(image) + from * query_stride + start * key_stride..];
                for (j, scores) in scores[..keys * lanes].chunks_exact_mut(lanes).enumerate() {
                    for (i, score) in scores[..count].iter_mut().enumerate() {
                        *score += mask[i * query_stride + j * key_stride];
                    }
                }
            }
            dispatch(Soften {
                lanes,
                scores: &mut scores[..keys * lanes],
                top: &mut *top,
                total: &mut *total,
                decay: &mut *decay,
                sums: &mut *sums,
            });
            let (a, b) = (Mat::new(&v[at * value_dim..], 1, value_dim), Mat::new(&*scores, lanes, 1));
            product(Dims { m: value_dim, n: lanes, k: keys }, one, a, b, one, sums, [lanes, 1]);
        }
        // SAFETY: blocks of queries are disjoint.
        let (y, lse) = unsafe { (y.range(row * value_dim, count * value_dim), lse.range(row, count)) };
        for i in 0..count {
            decay[i] = if total[i] > zero { T::of(1.0) / total[i] } else { zero };
            lse[i] = if total[i] > zero { T::of(top[i].f64() + total[i].f64().ln()) } else { T::LOWEST };
            if total[i].f64().is_nan() {
                (decay[i], lse[i]) = (total[i], total[i]);
            }
        }
        for (j, sums) in sums.chunks_exact(lanes).enumerate() {
            for i in 0..count {
                y[i * value_dim + j] = sums[i] * decay[i];
            }
        }
    });
}

/// One step of the running softmax: replaces scores by exponentials and rescales what was summed before.
struct Soften<'a, T> {
    lanes: usize,
    scores: &'a mut [T],
    top: &'a mut [T],
    total: &'a mut [T],
    decay: &'a mut [T],
    sums: &'a mut [T],
}

impl<T: Real> Job for Soften<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Soften { lanes, scores, top, total, decay, sums } = self;
        for first in (0..lanes).step_by(LANES) {
            let mut high = [T::LOWEST; LANES];
            high.copy_from_slice(&top[first..][..LANES]);
            let old = high;
            for row in scores.chunks_exact(lanes) {
                let row = &row[first..][..LANES];
                for i in 0..LANES {
                    // A NaN stays: it compares false with everything.
                    high[i] = if high[i] > row[i] { high[i] } else { row[i] };
                }
            }
            let mut shift = high;
            for s in &mut shift {
                // Without any score the exponentials are zero whatever is subtracted, if it is finite.
                *s = if *s == T::LOWEST { T::of(0.0) } else { *s };
            }
            let mut scaled = [T::of(0.0); LANES];
            for i in 0..LANES {
                scaled[i] = (old[i] - shift[i]).exp_lane::<FMA>();
            }
            let mut sum = [T::of(0.0); LANES];
            for row in scores.chunks_exact_mut(lanes) {
                let row = &mut row[first..][..LANES];
                for i in 0..LANES {
                    row[i] = (row[i] - shift[i]).exp_lane::<FMA>();
                    sum[i] += row[i];
                }
            }
            for i in 0..LANES {
                total[first + i] = total[first + i].madd::<FMA>(scaled[i], sum[i]);
            }
            top[first..][..LANES].copy_from_slice(&high);
            decay[first..][..LANES].copy_from_slice(&scaled);
        }
        for row in sums.chunks_exact_mut(lanes) {
            for (s, &d) in row.iter_mut().zip(&*decay) {
                *s *= d;
            }
        }
    }
}
