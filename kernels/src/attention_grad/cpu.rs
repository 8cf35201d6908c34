//! The gradient of attention on a CPU: one task for each batch element and head. It visits the keys in blocks, and for each
//! all queries in blocks, so that the gradients of keys and values are summed in scratch memory and only that of the queries
//! in the result. Scores are held with the key fastest.

use super::half;
use crate::attention::Shape;
use crate::product::{Dims, Mat, product};
use crate::simd::{Job, LANES, Real, Turn, dispatch, dot};
use crate::{DType, Launch, SCRATCH_BYTES, for_float, scratch_parts};

/// Keys of a block at most.
const KEYS: usize = 64;
/// Queries of a block.
const QUERIES: usize = 256;

pub(super) fn run(l: &Launch<'_>) {
    let half = l.int("half") != 0 && l.dtype("lse") == DType::F32;
    match half::Blocks::of(&Shape::of(l)).filter(|_| half) {
        Some(blocks) => half::run(l, blocks),
        None => {
            let rounded = ["q", "k", "v", "y", "dy", "dq", "dk", "dv"].iter().any(|name| l.dtype(name) == DType::Bf16);
            assert!(
                !rounded,
                "rounded operands are those of products of half precision, of heads that are not too wide"
            );
            for_float!(l.dtype("lse"), T => typed::<T>(l));
        }
    }
}

/// Keys of a block, fewer where wide heads leave less scratch memory.
fn block_keys<T>(s: &Shape) -> usize {
    let mut keys = KEYS;
    while keys > LANES && keys * 2 * (s.dim + s.value_dim + QUERIES) * size_of::<T>() > SCRATCH_BYTES {
        keys /= 2;
    }
    keys
}

#[expect(unsafe_code, reason = "tasks write disjoint parts of the results")]
fn typed<T: Real>(l: &Launch<'_>) {
    let s = Shape::of(l);
    let (q, k, v, mask) = (l.read::<T>("q"), l.read::<T>("k"), l.read::<T>("v"), l.read_if::<T>("mask"));
    let (y, lse, dy) = (l.read::<T>("y"), l.read::<T>("lse"), l.read::<T>("dy"));
    let (dq, dk, dv) = (l.shared::<T>("dq"), l.shared::<T>("dk"), l.shared::<T>("dv"));
    let scale = T::of(l.float("scale"));
    let (dim, value_dim) = (s.dim, s.value_dim);
    let (zero, one) = (T::of(0.0), T::of(1.0));
    let width = block_keys::<T>(&s);
    l.pool.run(s.images(), |image, bytes| {
        let (rows, columns) = (image * s.queries, image * s.keys);
        let (q, y, lse, dy) = (&q[rows * dim..], &y[rows * value_dim..], &lse[rows..], &dy[rows * value_dim..]);
        let (k, v) = (&k[columns * dim..], &v[columns * value_dim..]);
        // SAFETY: the parts of the images are disjoint.
        let (dq, dk, dv) = unsafe {
            (
                dq.range(rows * dim, s.queries * dim),
                dk.range(columns * dim, s.keys * dim),
                dv.range(columns * value_dim, s.keys * value_dim),
            )
        };
        dq.fill(zero);
        for from in (0..s.keys).step_by(width) {
            let count = width.min(s.keys - from);
            let lanes = count.next_multiple_of(LANES);
            let parts = [dim, value_dim, dim, value_dim, QUERIES, QUERIES].map(|rows| rows * lanes);
            let [kt, vt, dkt, dvt, p, ds] = scratch_parts::<T, 6>(&mut *bytes, parts);
            let (k, v) = (&k[from * dim..], &v[from * value_dim..]);
            kt.fill(zero);
            vt.fill(zero);
            dispatch(Turn { source: k, source_row: dim, rows: count, cols: dim, target: &mut *kt, target_row: lanes });
            dispatch(Turn {
                source: v,
                source_row: value_dim,
                rows: count,
                cols: value_dim,
                target: &mut *vt,
                target_row: lanes,
            });
            dkt.fill(zero);
            dvt.fill(zero);
            for start in (0..s.queries).step_by(QUERIES) {
                let queries = QUERIES.min(s.queries - start);
                let (q, dy) = (&q[start * dim..], &dy[start * value_dim..]);
                let scores = Dims { m: queries, n: lanes, k: dim };
                product(scores, scale, Mat::new(q, dim, 1), Mat::new(&*kt, lanes, 1), zero, p, [lanes, 1]);
                if let Some(mask) = mask {
                    let [_, _, query_stride, key_stride] = s.mask_strides;
                    let mask = &mask[s.mask_start(image) + start * query_stride + from * key_stride..];
                    for (i, p) in p[..queries * lanes].chunks_exact_mut(lanes).enumerate() {
                        for (j, p) in p[..count].iter_mut().enumerate() {
                            *p += mask[i * query_stride + j * key_stride];
                        }
                    }
                }
                let gains = Dims { k: value_dim, ..scores };
                product(gains, one, Mat::new(dy, value_dim, 1), Mat::new(&*vt, lanes, 1), zero, ds, [lanes, 1]);
                dispatch(Slopes {
                    lanes,
                    value_dim,
                    scale,
                    y: &y[start * value_dim..],
                    dy,
                    lse: &lse[start..],
                    p: &mut p[..queries * lanes],
                    ds: &mut ds[..queries * lanes],
                });
                let sums = Dims { m: value_dim, n: lanes, k: queries };
                product(sums, one, Mat::new(dy, 1, value_dim), Mat::new(&*p, lanes, 1), one, dvt, [lanes, 1]);
                let sums = Dims { m: dim, ..sums };
                product(sums, one, Mat::new(q, 1, dim), Mat::new(&*ds, lanes, 1), one, dkt, [lanes, 1]);
                let sums = Dims { m: queries, n: dim, k: count };
                let dq = &mut dq[start * dim..];
                product(sums, one, Mat::new(&*ds, lanes, 1), Mat::new(k, dim, 1), one, dq, [dim, 1]);
            }
            let dk = &mut dk[from * dim..][..count * dim];
            dispatch(Turn { source: dkt, rows: dim, cols: count, target: dk, source_row: lanes, target_row: dim });
            let dv = &mut dv[from * value_dim..][..count * value_dim];
            dispatch(Turn {
                source: dvt,
                rows: value_dim,
                cols: count,
                target: dv,
                source_row: lanes,
                target_row: value_dim,
            });
        }
    });
}

/// Replaces scores by probabilities and the products of `dy` and `v` by the gradient of the unscaled scores.
struct Slopes<'a, T> {
    lanes: usize,
    value_dim: usize,
    scale: T,
    y: &'a [T],
    dy: &'a [T],
    lse: &'a [T],
    p: &'a mut [T],
    ds: &'a mut [T],
}

impl<T: Real> Job for Slopes<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let rows = self.p.chunks_exact_mut(self.lanes).zip(self.ds.chunks_exact_mut(self.lanes));
        for (i, (p, ds)) in rows.enumerate() {
            let (y, dy) = (&self.y[i * self.value_dim..], &self.dy[i * self.value_dim..]);
            let d = dot::<T, FMA>(&y[..self.value_dim], &dy[..self.value_dim]);
            // A query without keys has no probabilities.
            let lse = if self.lse[i] == T::LOWEST { -T::LOWEST } else { self.lse[i] };
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = (*p - lse).exp_lane::<FMA>();
                *ds = *p * (*ds - d) * self.scale;
            }
        }
    }
}
