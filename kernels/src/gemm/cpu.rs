//! The product on a CPU: blocks of the result, each computed whole by one task.

use super::bias::{AddBias, Bias};
use super::half;
use crate::product::{Dims, Mat, product_shared};
use crate::simd::{Job, Real, Turn, dispatch};
use crate::{DType, Launch, SCRATCH_BYTES, Stored, scratch};
use ::half::f16;

/// Floating-point operations that make a task worth starting.
const TASK_FLOPS: usize = 4 << 20;
/// Tasks that a large product is cut into.
const TASKS: usize = 24;
/// Extent of a block at most, where parts of operands are made in scratch memory.
const TURNED: usize = 512;
/// Rows of a block that make turning the right operand worthwhile.
const TURNED_ROWS: usize = 16;
/// Terms of a chunk at most, in scratch memory.
const TERMS: usize = 480;
/// Elements between lines in scratch memory, because lines a large power of two apart would share cache sets.
const GAP: usize = 16;
/// Elements that the part of an operand takes in scratch memory at most, whichever way its lines run.
const SIDE: usize = if TURNED > TERMS { TURNED * (TERMS + GAP) } else { TERMS * (TURNED + GAP) };
const _: () = assert!(2 * SIDE * size_of::<f64>() <= SCRATCH_BYTES);

pub(super) fn run(l: &Launch<'_>) {
    match (l.dtype("a"), l.dtype("b")) {
        (DType::Bf16, _) | (_, DType::Bf16) => half::run(l),
        (DType::F64, _) => typed::<f64, f64, f64>(l),
        (DType::F16, DType::F16) => typed::<f32, f16, f16>(l),
        (DType::F16, _) => typed::<f32, f16, f32>(l),
        (_, DType::F16) => typed::<f32, f32, f16>(l),
        _ => typed::<f32, f32, f32>(l),
    }
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
    /// Widened in scratch memory, a chunk of terms at a time.
    Widened,
    /// Turned in scratch memory, a chunk of terms at a time, and widened if it is stored in half precision.
    Turned,
}

/// An operand, and how it reaches the product.
#[derive(Clone, Copy)]
struct Operand<'a, T, S> {
    stored: Mat<'a, S>,
    /// Its memory, if it is stored as it is computed with.
    plain: Option<&'a [T]>,
    form: Form,
}

impl<'a, T: Real, S: Stored<T>> Operand<'a, T, S> {
    fn new(stored: Mat<'a, S>, turned: bool) -> Self {
        let plain = S::plain(stored.data);
        let form = match plain {
            _ if turned => Form::Turned,
            Some(_) => Form::Plain,
            None => Form::Widened,
        };
        Operand { stored, plain, form }
    }

    /// The part of `rows` x `cols` that starts at an element, from scratch memory unless it is plain.
    fn part(&self, start: usize, [rows, cols]: [usize; 2], room: &'a mut [u8]) -> Mat<'a, T> {
        let Mat { data, rs, cs } = self.stored;
        if let (Form::Plain, Some(plain)) = (self.form, self.plain) {
            return Mat::new(&plain[start..], rs, cs);
        }
        let source = &data[start..];
        if self.form == Form::Turned {
            let target_row = cols + GAP;
            let target = scratch(room, rows * target_row);
            dispatch(Turn { source, source_row: cs, rows: cols, cols: rows, target: &mut *target, target_row });
            return Mat::new(target, target_row, 1);
        }
        // Neighbours in memory stay neighbours.
        let (lines, len, apart, step) = if rs < cs { (cols, rows, cs, rs) } else { (rows, cols, rs, cs) };
        let line = len + GAP;
        let target = scratch(room, lines * line);
        dispatch(Widen { source, apart, step, lines, len, target: &mut *target, line });
        if rs < cs { Mat::new(target, 1, line) } else { Mat::new(target, line, 1) }
    }
}

/// Widens lines of numbers: `target[i * line + j] = source[i * apart + j * step]` for `i < lines`, `j < len`.
struct Widen<'a, T, S> {
    source: &'a [S],
    apart: usize,
    step: usize,
    lines: usize,
    len: usize,
    target: &'a mut [T],
    line: usize,
}

impl<T: Real, S: Stored<T>> Job for Widen<'_, T, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Widen { source, apart, step, lines, len, target, line } = self;
        for i in 0..lines {
            let (source, target) = (&source[i * apart..], &mut target[i * line..][..len]);
            if step == 1 {
                target.iter_mut().zip(source).for_each(|(target, source)| *target = source.wide());
            } else {
                target.iter_mut().enumerate().for_each(|(j, target)| *target = source[j * step].wide());
            }
        }
    }
}

/// The product of operands that are stored as `A` and `B`.
fn typed<T: Real, A: Stored<T>, B: Stored<T>>(l: &Launch<'_>) {
    let (a, b) = (l.read::<A>("a"), l.read::<B>("b"));
    let (sa, sb, sc) = (two(l.ints("a_strides")), two(l.ints("b_strides")), two(l.ints("c_strides")));
    let mut dims = Dims { m: l.int("m"), n: l.int("n"), k: l.int("k") };
    let mut batch = Batch::of(l);
    let bias = l.read_if::<T>("bias");
    if sc[0] < sc[1] {
        // Blocks are chosen for a result whose rows are contiguous, so the transposed product is computed otherwise.
        (dims.m, dims.n) = (dims.n, dims.m);
        batch.strides.swap(0, 1);
        let (a, b) = (Mat::new(a, sa[1], sa[0]), Mat::new(b, sb[1], sb[0]));
        run_blocks(l, dims, batch, b, a, bias.map_or(Bias::None, Bias::Rows), [sc[1], sc[0]]);
    } else {
        let (a, b) = (Mat::new(a, sa[0], sa[1]), Mat::new(b, sb[0], sb[1]));
        run_blocks(l, dims, batch, a, b, bias.map_or(Bias::None, Bias::Columns), sc);
    }
}

#[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
fn run_blocks<T: Real, A: Stored<T>, B: Stored<T>>(
    l: &Launch<'_>,
    dims: Dims,
    batch: Batch<'_>,
    a: Mat<'_, A>,
    b: Mat<'_, B>,
    bias: Bias<'_, T>,
    sc: [usize; 2],
) {
    let (alpha, beta) = (T::of(l.float("alpha")), T::of(l.float("beta")));
    let c = l.shared::<T>("c");
    let count = batch.count();
    if dims.m == 0 || dims.n == 0 || count == 0 {
        return;
    }
    // The product wants the left operand contiguous along the terms and the right one along the columns.
    let large = dims.m >= TURNED_ROWS && dims.n > 128;
    let left = Operand::<T, A>::new(a, large && a.rs == 1 && a.cs != 1);
    let right = Operand::<T, B>::new(b, dims.m >= TURNED_ROWS && b.rs == 1 && b.cs != 1);
    let plain = (left.form, right.form) == (Form::Plain, Form::Plain);
    // Each block makes its part of the right operand, which takes rows to pay for.
    let (mut bm, mut bn) = blocks(dims, count, if right.form == Form::Plain { 128 } else { 384 });
    if !plain {
        (bm, bn) = (bm.min(TURNED), bn.min(TURNED));
    }
    let (down, across) = (dims.m.div_ceil(bm), dims.n.div_ceil(bn));
    let flops = (2 * dims.m * dims.n * dims.k).max(1);
    let per_task = if down * across > 1 { 1 } else { (TASK_FLOPS / flops).clamp(1, count) };
    let groups = count.div_ceil(per_task);
    let chunk = if plain { dims.k } else { dims.k.div_ceil(dims.k.div_ceil(TERMS).max(1)) };
    l.pool.run(groups * down * across, |task, bytes| {
        let (group, block) = (task / (down * across), task % (down * across));
        let (i, j) = (block % down * bm, block / down * bn);
        let (m, n) = (bm.min(dims.m - i), bn.min(dims.n - j));
        for index in group * per_task..count.min((group + 1) * per_task) {
            let [ao, bo, co] = batch.at(index);
            let start = co + i * sc[0] + j * sc[1];
            if dims.k == 0 {
                let none = Mat::new(&[][..], 0, 0);
                // SAFETY: blocks are disjoint, and so are the results of a batch.
                unsafe { product_shared(Dims { m, n, k: 0 }, alpha, none, none, beta, &c, start, sc) };
            }
            let (low, high) = bytes.split_at_mut(SIDE * size_of::<T>());
            for from in (0..dims.k).step_by(chunk.max(1)) {
                let k = chunk.min(dims.k - from);
                let a = left.part(ao + i * a.rs + from * a.cs, [m, k], low);
                let b = right.part(bo + from * b.rs + j * b.cs, [k, n], high);
                let beta = if from == 0 { beta } else { T::of(1.0) };
                // SAFETY: as above.
                unsafe { product_shared(Dims { m, n, k }, alpha, a, b, beta, &c, start, sc) };
            }
            if bias.is_some() {
                dispatch(AddBias { bias: bias.from(i, j), extents: [m, n], out: &c, start, strides: sc });
            }
        }
    });
}
