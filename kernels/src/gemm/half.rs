//! The product with an operand in bfloat16: the other is rounded to it, and the sums are in single precision.
//!
//! A task computes one block of the result.

use super::bias::Bias;
use super::cpu::{Batch, two};
use crate::pairs::{self, GROUP, Panels, SUMS};
use crate::product::{Dims, Mat};
use crate::simd::{Job, dispatch};
use crate::tile::{PANEL, hold};
use crate::{DType, Launch, Pool, SCRATCH_BYTES, Shared, Stored, scratch};
use half::bf16;

/// Rows of a block at most: what a panel of the right operand is rounded for.
const ROWS: usize = 512;
/// Terms beyond which a block has half as many rows: the left operand stays in the cache of a core from one group of columns to the next.
const LONG: usize = 1024;
/// Rows of a block and columns at least, unless there are too few blocks otherwise.
const FEW: [usize; 2] = [64, 512];
/// Columns of a block at least.
const LEAST: usize = 4 * PANEL;
/// Blocks for each thread that a large product is cut into at least. Sums do not depend on how it is cut.
const TASKS: usize = 2;
/// Terms of a sum that are rounded before it begins, at most.
pub(super) const TERMS: usize = 1 << 16;
const _: () = assert!(pairs::scratch_len(8, TERMS) * size_of::<f32>() <= SCRATCH_BYTES);

pub(super) fn run(l: &Launch<'_>) {
    match l.dtype("c") {
        DType::Bf16 => to::<bf16>(l),
        _ => to::<f32>(l),
    }
}

fn to<C: Stored<f32>>(l: &Launch<'_>) {
    match (l.dtype("a"), l.dtype("b")) {
        (DType::Bf16, DType::Bf16) => typed::<_, _, C>(l, l.read::<bf16>("a"), l.read::<bf16>("b")),
        (DType::Bf16, _) => typed::<_, _, C>(l, l.read::<bf16>("a"), l.read::<f32>("b")),
        _ => typed::<_, _, C>(l, l.read::<f32>("a"), l.read::<bf16>("b")),
    }
}

fn typed<A: Stored<f32>, B: Stored<f32>, C: Stored<f32>>(l: &Launch<'_>, a: &[A], b: &[B]) {
    let [m, n, k] = ["m", "n", "k"].map(|name| l.int(name));
    let [sa, sb, sc] = ["a_strides", "b_strides", "c_strides"].map(|name| two(l.ints(name)));
    let (alpha, beta) = (l.float("alpha") as f32, l.float("beta") as f32);
    let mut batch = Batch::of(l);
    let c = l.shared::<C>("c");
    if sc[0] < sc[1] {
        // Rows of the result are to be contiguous, so the transposed product is computed otherwise.
        batch.strides.swap(0, 1);
        let bias = l.read_if("bias").map_or(Bias::None, Bias::Rows);
        let products = Products { dims: Dims { m: n, n: m, k }, batch, alpha, beta, bias };
        products.run(l.pool, Mat::new(b, sb[1], sb[0]), Mat::new(a, sa[1], sa[0]), &c, [sc[1], sc[0]]);
    } else {
        let bias = l.read_if("bias").map_or(Bias::None, Bias::Columns);
        let products = Products { dims: Dims { m, n, k }, batch, alpha, beta, bias };
        products.run(l.pool, Mat::new(a, sa[0], sa[1]), Mat::new(b, sb[0], sb[1]), &c, sc);
    }
}

/// Extents of the blocks that a product is cut into, at least so many if it is large.
fn block(Dims { m, n, k }: Dims, least: usize) -> [usize; 2] {
    let most = if k > LONG { ROWS / 2 } else { ROWS };
    let [mut rows, mut columns] = [most.min(m.next_multiple_of(8)), n.next_multiple_of(PANEL)];
    while rows > 8 && pairs::scratch_len(rows, k.min(TERMS)) * size_of::<f32>() > SCRATCH_BYTES {
        rows = (rows / 2).next_multiple_of(8);
    }
    while m.div_ceil(rows) * n.div_ceil(columns) < least {
        if columns > FEW[1] || columns > LEAST && rows <= FEW[0] {
            columns = (columns / 2).next_multiple_of(PANEL);
        } else if rows > FEW[0] {
            rows = (rows / 2).next_multiple_of(8);
        } else {
            break;
        }
    }
    // As many of about the same size.
    let even = |all: usize, most: usize, unit: usize| all.div_ceil(all.div_ceil(most)).next_multiple_of(unit);
    [even(m, rows, 8), even(n, columns, PANEL)]
}

/// A product for each index of a batch.
pub(crate) struct Products<'a> {
    pub(crate) dims: Dims,
    pub(crate) batch: Batch<'a>,
    pub(crate) alpha: f32,
    /// What the result is multiplied by before; with zero it is not read.
    pub(crate) beta: f32,
    pub(crate) bias: Bias<'a, f32>,
}

impl Products<'_> {
    /// Computes them. Element `(i, j)` of a result is `c[i * strides[0] + j * strides[1]]`.
    #[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
    pub(crate) fn run<A: Stored<f32>, B: Stored<f32>, C: Stored<f32>>(
        &self,
        pool: &Pool,
        a: Mat<'_, A>,
        b: Mat<'_, B>,
        c: &Shared<'_, C>,
        strides: [usize; 2],
    ) {
        let Products { dims, batch, alpha, beta, bias } = self;
        let (Dims { m, n, k }, count) = (*dims, batch.count());
        if m * n * count == 0 {
            return;
        }
        let [bm, bn] = block(*dims, (TASKS * pool.threads()).div_ceil(count));
        let (down, across) = (m.div_ceil(bm), n.div_ceil(bn));
        pool.run(count * down * across, |task, bytes| {
            let _held = hold();
            let (index, block) = (task / (down * across), task % (down * across));
            let [ao, bo, co] = batch.at(index);
            let (i, j) = (block % down * bm, block / down * bn);
            let [rows, columns] = [bm.min(m - i), bn.min(n - j)];
            for from in (0..k.max(1)).step_by(TERMS) {
                let part = Dims { m: rows, n: columns, k: TERMS.min(k - from) };
                let (a, b) = (a.skip(ao).from(i, from), b.skip(bo).from(from, j));
                let scales = [*alpha, if from == 0 { *beta } else { 1.0 }];
                let bias = if from == 0 { bias.from(i, j) } else { Bias::None };
                // Sums that are the result already.
                let whole = scales == [1.0, 0.0] && !bias.is_some() && strides[1] == 1;
                let plain = (whole && C::views(DType::F32)).then(|| c.cast::<f32>());
                let mut panels = Panels::new(part, a, b, scratch(bytes, pairs::scratch_len(rows, part.k)));
                let group = columns.div_ceil(columns.div_ceil(GROUP)).next_multiple_of(PANEL);
                for column in (0..columns).step_by(group) {
                    let some = column..columns.min(column + group);
                    let start = co + i * strides[0] + (j + column) * strides[1];
                    if let Some(c) = plain.as_ref().filter(|_| panels.is_full(&some)) {
                        // SAFETY: blocks are disjoint, and so are the results of a batch.
                        unsafe { panels.write(some, c, start, strides[0]) };
                    } else {
                        let width = some.len();
                        let bias = bias.from(0, column);
                        let sums = panels.sums(some);
                        dispatch(Put { sums, rows, width, scales, bias, out: c, start, strides });
                    }
                }
            }
        });
    }
}

/// `out = alpha * sums + beta * out + bias` for the first `width` sums of each row; with `beta` zero `out` is not read. Element `(i, j)` is
/// `start + i * strides[0] + j * strides[1]`; no other task may access those elements meanwhile.
struct Put<'a, C> {
    sums: &'a [f32],
    rows: usize,
    width: usize,
    scales: [f32; 2],
    bias: Bias<'a, f32>,
    out: &'a Shared<'a, C>,
    start: usize,
    strides: [usize; 2],
}

impl<C: Stored<f32>> Job for Put<'_, C> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
    fn run<const FMA: bool>(self) {
        let Put { sums, rows, width, scales: [alpha, beta], bias, out, start, strides } = self;
        for (i, sums) in sums.chunks_exact(SUMS).enumerate().take(rows) {
            let (sums, start) = (&sums[..width], start + i * strides[0]);
            let of_row = if let Bias::Rows(bias) = bias { bias[i] } else { 0.0 };
            let of_columns = if let Bias::Columns(bias) = bias { &bias[..width] } else { &[0.0; SUMS][..width] };
            if strides[1] != 1 {
                for (j, (sum, bias)) in sums.iter().zip(of_columns).enumerate() {
                    // SAFETY: blocks are disjoint, and so are the results of a batch.
                    let out = unsafe { out.range(start + j * strides[1], 1) };
                    let old = if beta == 0.0 { 0.0 } else { beta * out[0].wide() };
                    out[0] = C::narrow(alpha * sum + old + (of_row + bias));
                }
                continue;
            }
            // SAFETY: as above.
            let out = unsafe { out.range(start, width) };
            if beta == 0.0 {
                for (out, (sum, bias)) in out.iter_mut().zip(sums.iter().zip(of_columns)) {
                    *out = C::narrow(alpha * sum + (of_row + bias));
                }
            } else {
                for (out, (sum, bias)) in out.iter_mut().zip(sums.iter().zip(of_columns)) {
                    *out = C::narrow(alpha * sum + beta * out.wide() + (of_row + bias));
                }
            }
        }
    }
}
