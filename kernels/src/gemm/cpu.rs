//! The product on a CPU: blocks of the result, each computed whole by one task.

use crate::product::{Dims, Mat, product_shared};
use crate::{Float, Launch, for_float};

/// Floating-point operations that make a task worth starting.
const TASK_FLOPS: usize = 4 << 20;
/// Tasks that a large product is cut into.
const TASKS: usize = 24;

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("c"), T => typed::<T>(l))
}

fn pair(values: &[i64]) -> [usize; 2] {
    [values[0] as usize, values[1] as usize]
}

/// How one product of the batch is cut, in blocks of rows and columns.
fn blocks(dims: Dims, batch: usize) -> (usize, usize) {
    let Dims { m, n, k } = dims;
    let parts = (2 * m * n * k.max(1) / TASK_FLOPS)
        .clamp(1, TASKS)
        .min(TASKS.div_ceil(batch));
    let units = n.div_ceil(64);
    let mut across = (units / 4).clamp(1, parts);
    let down = parts.div_ceil(across).min(m.div_ceil(128)).max(1);
    if across * down * 2 <= parts {
        across = units.min(parts.div_ceil(down));
    }
    (
        m.div_ceil(down).next_multiple_of(8),
        units.div_ceil(across) * 64,
    )
}

#[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
fn typed<T: Float>(l: &Launch<'_>) {
    let (a, b, c) = (l.read::<T>("a"), l.read::<T>("b"), l.shared::<T>("c"));
    let (alpha, beta) = (T::of(l.float("alpha")), T::of(l.float("beta")));
    let mut dims = Dims {
        m: l.int("m"),
        n: l.int("n"),
        k: l.int("k"),
    };
    let (mut sa, mut sb, mut sc) = (
        pair(l.ints("a_strides")),
        pair(l.ints("b_strides")),
        pair(l.ints("c_strides")),
    );
    let (mut a, mut b) = (a, b);
    let (mut a_batch, mut b_batch) = (l.ints("a_batch"), l.ints("b_batch"));
    let (batch, c_batch) = (l.ints("batch"), l.ints("c_batch"));
    let count = batch.iter().product::<i64>() as usize;
    if dims.m == 0 || dims.n == 0 || count == 0 {
        return;
    }
    if sc[0] < sc[1] {
        // Blocks are chosen for a result whose rows are contiguous, so the transposed product is computed otherwise.
        (dims.m, dims.n) = (dims.n, dims.m);
        (a, b) = (b, a);
        (a_batch, b_batch) = (b_batch, a_batch);
        (sa, sb) = ([sb[1], sb[0]], [sa[1], sa[0]]);
        sc = [sc[1], sc[0]];
    }
    let (bm, bn) = blocks(dims, count);
    let (down, across) = (dims.m.div_ceil(bm), dims.n.div_ceil(bn));
    let flops = (2 * dims.m * dims.n * dims.k).max(1);
    let per_task = if down * across > 1 {
        1
    } else {
        (TASK_FLOPS / flops).clamp(1, count)
    };
    let groups = count.div_ceil(per_task);
    l.pool.run(groups * down * across, |task, _| {
        let (group, block) = (task / (down * across), task % (down * across));
        let (i, j) = (block % down * bm, block / down * bn);
        let part = Dims {
            m: bm.min(dims.m - i),
            n: bn.min(dims.n - j),
            k: dims.k,
        };
        for index in group * per_task..count.min((group + 1) * per_task) {
            let (mut rest, mut ao, mut bo, mut co) = (index, 0, 0, 0);
            for d in (0..batch.len()).rev() {
                let at = rest % batch[d] as usize;
                rest /= batch[d] as usize;
                ao += at * a_batch[d] as usize;
                bo += at * b_batch[d] as usize;
                co += at * c_batch[d] as usize;
            }
            let (a, b) = if dims.k == 0 {
                (&a[..0], &b[..0])
            } else {
                (&a[ao + i * sa[0]..], &b[bo + j * sb[1]..])
            };
            let (a, b) = (Mat::new(a, sa[0], sa[1]), Mat::new(b, sb[0], sb[1]));
            // SAFETY: blocks are disjoint, and so are the results of a batch.
            unsafe { product_shared(part, alpha, a, b, beta, &c, co + i * sc[0] + j * sc[1], sc) };
        }
    });
}
