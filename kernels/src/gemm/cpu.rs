//! The product on a CPU: blocks of the result, each computed whole by one task.

use super::half;
use crate::product::{Dims, Mat, product_shared};
use crate::simd::{Real, Turn, dispatch};
use crate::{DType, Launch, SCRATCH_BYTES, for_float, scratch};

/// Floating-point operations that make a task worth starting.
const TASK_FLOPS: usize = 4 << 20;
/// Tasks that a large product is cut into.
const TASKS: usize = 24;
/// Extent of a block at most, where operands are turned.
const TURNED: usize = 512;
/// Rows of a block that make turning the right operand worthwhile.
const TURNED_ROWS: usize = 16;
/// Terms of a chunk at most, where operands are turned.
const TERMS: usize = 480;
/// Elements between rows of turned operands, because rows a large power of two apart would share cache sets.
const GAP: usize = 16;
/// Elements of a turned left operand and of a turned right one.
const SIZES: [usize; 2] = [TURNED * (TERMS + GAP), TERMS * (TURNED + GAP)];
const _: () = assert!((SIZES[0] + SIZES[1]) * size_of::<f64>() <= SCRATCH_BYTES);

pub(super) fn run(l: &Launch<'_>) {
    if [l.dtype("a"), l.dtype("b")].contains(&DType::Bf16) {
        return half::run(l);
    }
    for_float!(l.dtype("c"), T => typed::<T>(l))
}

/// A pair of strides.
pub(super) fn two(values: &[i64]) -> [usize; 2] {
    [values[0] as usize, values[1] as usize]
}

/// The dimensions over which products are repeated.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) sizes: &'a [i64],
    /// Strides of the operands and of the result.
    pub(crate) strides: [&'a [i64]; 3],
}

impl<'a> Batch<'a> {
    pub(super) fn of(l: &Launch<'a>) -> Batch<'a> {
        Batch { sizes: l.ints("batch"), strides: ["a_batch", "b_batch", "c_batch"].map(|name| l.ints(name)) }
    }

    /// Products.
    pub(super) fn count(&self) -> usize {
        self.sizes.iter().product::<i64>() as usize
    }

    /// Where the operands and the result of product `index` begin.
    pub(super) fn at(&self, index: usize) -> [usize; 3] {
        let (mut rest, mut starts) = (index, [0; 3]);
        for (d, size) in self.sizes.iter().enumerate().rev() {
            let at = rest % *size as usize;
            rest /= *size as usize;
            for (start, strides) in starts.iter_mut().zip(&self.strides) {
                *start += at * strides[d] as usize;
            }
        }
        starts
    }
}

/// How one product of the batch is cut, in blocks of rows and columns; blocks have at least `least_rows` if there are so
/// many.
fn blocks(dims: Dims, batch: usize, least_rows: usize) -> (usize, usize) {
    let Dims { m, n, k } = dims;
    let parts = (2 * m * n * k.max(1) / TASK_FLOPS).clamp(1, TASKS).min(TASKS.div_ceil(batch));
    let units = n.div_ceil(64);
    let mut across = (units / 4).clamp(1, parts);
    let down = parts.div_ceil(across).min(m / least_rows).max(1);
    if across * down * 2 <= parts {
        across = units.min(parts.div_ceil(down));
    }
    (m.div_ceil(down).next_multiple_of(8), units.div_ceil(across) * 64)
}

/// How an operand reaches the product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As it is.
    Plain,
    /// Turned in scratch memory, a chunk of terms at a time.
    Turned,
}

#[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
fn typed<T: Real>(l: &Launch<'_>) {
    let (a, b, c) = (l.read::<T>("a"), l.read::<T>("b"), l.shared::<T>("c"));
    let (alpha, beta) = (T::of(l.float("alpha")), T::of(l.float("beta")));
    let mut dims = Dims { m: l.int("m"), n: l.int("n"), k: l.int("k") };
    let (mut sa, mut sb, mut sc) = (two(l.ints("a_strides")), two(l.ints("b_strides")), two(l.ints("c_strides")));
    let (mut a, mut b) = (a, b);
    let mut batch = Batch::of(l);
    let count = batch.count();
    if dims.m == 0 || dims.n == 0 || count == 0 {
        return;
    }
    if sc[0] < sc[1] {
        // Blocks are chosen for a result whose rows are contiguous, so the transposed product is computed otherwise.
        (dims.m, dims.n) = (dims.n, dims.m);
        (a, b) = (b, a);
        batch.strides.swap(0, 1);
        (sa, sb) = ([sb[1], sb[0]], [sa[1], sa[0]]);
        sc = [sc[1], sc[0]];
    }
    // The product wants the left operand contiguous along the terms and the right one along the columns.
    let large = dims.m >= TURNED_ROWS && dims.n > 128;
    let left = if large && sa[0] == 1 && sa[1] != 1 { Form::Turned } else { Form::Plain };
    let right = if dims.m >= TURNED_ROWS && sb[0] == 1 && sb[1] != 1 { Form::Turned } else { Form::Plain };
    let turned = (left, right) != (Form::Plain, Form::Plain);
    // Each block turns its part of the right operand, which takes rows to pay for.
    let (mut bm, mut bn) = blocks(dims, count, if right == Form::Turned { 384 } else { 128 });
    if turned {
        (bm, bn) = (bm.min(TURNED), bn.min(TURNED));
    }
    let (down, across) = (dims.m.div_ceil(bm), dims.n.div_ceil(bn));
    let flops = (2 * dims.m * dims.n * dims.k).max(1);
    let per_task = if down * across > 1 { 1 } else { (TASK_FLOPS / flops).clamp(1, count) };
    let groups = count.div_ceil(per_task);
    l.pool.run(groups * down * across, |task, bytes| {
        let (group, block) = (task / (down * across), task % (down * across));
        let (i, j) = (block % down * bm, block / down * bn);
        let part = Dims { m: bm.min(dims.m - i), n: bn.min(dims.n - j), k: dims.k };
        for index in group * per_task..count.min((group + 1) * per_task) {
            let [ao, bo, co] = batch.at(index);
            let start = co + i * sc[0] + j * sc[1];
            if !turned || dims.k == 0 {
                let (a, b) =
                    if dims.k == 0 { (&a[..0], &b[..0]) } else { (&a[ao + i * sa[0]..], &b[bo + j * sb[1]..]) };
                let (a, b) = (Mat::new(a, sa[0], sa[1]), Mat::new(b, sb[0], sb[1]));
                // SAFETY: blocks are disjoint, and so are the results of a batch.
                unsafe { product_shared(part, alpha, a, b, beta, &c, start, sc) };
                continue;
            }
            let (low, high) = bytes.split_at_mut(SIZES[0] * size_of::<T>());
            let chunk = dims.k.div_ceil(dims.k.div_ceil(TERMS));
            for from in (0..dims.k).step_by(chunk) {
                let part = Dims { k: chunk.min(dims.k - from), ..part };
                let (m, n, k) = (part.m, part.n, part.k);
                let (source_a, source_b) = (&a[ao + i * sa[0] + from * sa[1]..], &b[bo + j * sb[1] + from * sb[0]..]);
                let a = if left == Form::Turned {
                    let pitch = k + GAP;
                    let target = scratch(&mut *low, m * pitch);
                    dispatch(Turn {
                        source: source_a,
                        source_row: sa[1],
                        rows: k,
                        cols: m,
                        target: &mut *target,
                        target_row: pitch,
                    });
                    Mat::new(&*target, pitch, 1)
                } else {
                    Mat::new(source_a, sa[0], sa[1])
                };
                let b = if right == Form::Turned {
                    let pitch = n + GAP;
                    let target = scratch(&mut *high, k * pitch);
                    dispatch(Turn {
                        source: source_b,
                        source_row: sb[1],
                        rows: n,
                        cols: k,
                        target: &mut *target,
                        target_row: pitch,
                    });
                    Mat::new(&*target, pitch, 1)
                } else {
                    Mat::new(source_b, sb[0], sb[1])
                };
                let beta = if from == 0 { beta } else { T::of(1.0) };
                // SAFETY: as above.
                unsafe { product_shared(part, alpha, a, b, beta, &c, start, sc) };
            }
        }
    });
}
