//! The product with an operand in bfloat16: the other is rounded to it, and the sums are in single precision.
//!
//! A task computes one block of the result.

use super::cpu::{Batch, two};
use crate::pairs;
use crate::product::{Dims, Mat};
use crate::tile::PANEL;
use crate::{DType, Launch, Pool, SCRATCH_BYTES, Shared, Stored, scratch};
use half::bf16;

/// Rows of a block at most.
const ROWS: usize = 256;
/// Columns of a block at most.
const COLUMNS: usize = 512;
/// Blocks that a large product is cut into at least.
const TASKS: usize = 8;
const _: () = {
    let largest = Dims { m: ROWS, n: COLUMNS, k: 1 << 20 };
    assert!(pairs::scratch_len(largest) * size_of::<f32>() <= SCRATCH_BYTES);
};

pub(super) fn run(l: &Launch<'_>) {
    match (l.dtype("a"), l.dtype("b")) {
        (DType::Bf16, DType::Bf16) => typed(l, l.read::<bf16>("a"), l.read::<bf16>("b")),
        (DType::Bf16, _) => typed(l, l.read::<bf16>("a"), l.read::<f32>("b")),
        _ => typed(l, l.read::<f32>("a"), l.read::<bf16>("b")),
    }
}

fn typed<A: Stored<f32>, B: Stored<f32>>(l: &Launch<'_>, a: &[A], b: &[B]) {
    let [m, n, k] = ["m", "n", "k"].map(|name| l.int(name));
    let [sa, sb, sc] = ["a_strides", "b_strides", "c_strides"].map(|name| two(l.ints(name)));
    let (alpha, beta) = (l.float("alpha") as f32, l.float("beta") as f32);
    let mut batch = Batch::of(l);
    let c = l.shared::<f32>("c");
    if sc[0] < sc[1] {
        // Rows of the result are to be contiguous, so the transposed product is computed otherwise.
        batch.strides.swap(0, 1);
        let products = Products { dims: Dims { m: n, n: m, k }, batch, alpha, beta };
        products.run(l.pool, Mat::new(b, sb[1], sb[0]), Mat::new(a, sa[1], sa[0]), &c, [sc[1], sc[0]]);
    } else {
        let products = Products { dims: Dims { m, n, k }, batch, alpha, beta };
        products.run(l.pool, Mat::new(a, sa[0], sa[1]), Mat::new(b, sb[0], sb[1]), &c, sc);
    }
}

/// Extents of the blocks that a product is cut into.
fn block(m: usize, n: usize, count: usize) -> [usize; 2] {
    let (mut rows, mut columns) = (ROWS.min(m.next_multiple_of(8)), COLUMNS.min(n.next_multiple_of(PANEL)));
    while count * m.div_ceil(rows) * n.div_ceil(columns) < TASKS {
        if columns > 4 * PANEL && columns >= rows {
            columns = (columns / 2).next_multiple_of(PANEL);
        } else if rows > 64 {
            rows = (rows / 2).next_multiple_of(8);
        } else {
            break;
        }
    }
    [rows, columns]
}

/// A product for each index of a batch.
pub(crate) struct Products<'a> {
    pub(crate) dims: Dims,
    pub(crate) batch: Batch<'a>,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
}

impl Products<'_> {
    /// Computes them. Element `(i, j)` of a result is `c[i * strides[0] + j * strides[1]]`.
    #[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
    pub(crate) fn run<A: Stored<f32>, B: Stored<f32>>(
        &self,
        pool: &Pool,
        a: Mat<'_, A>,
        b: Mat<'_, B>,
        c: &Shared<'_, f32>,
        strides: [usize; 2],
    ) {
        let Products { dims: Dims { m, n, k }, batch, alpha, beta } = self;
        let (m, n, count) = (*m, *n, batch.count());
        if m * n * count == 0 {
            return;
        }
        let [bm, bn] = block(m, n, count);
        let (down, across) = (m.div_ceil(bm), n.div_ceil(bn));
        pool.run(count * down * across, |task, bytes| {
            let (index, block) = (task / (down * across), task % (down * across));
            let [ao, bo, co] = batch.at(index);
            let (i, j) = (block % down * bm, block / down * bn);
            let part = Dims { m: bm.min(m - i), n: bn.min(n - j), k: *k };
            let (a, b) = (a.skip(ao).from(i, 0), b.skip(bo).from(0, j));
            pairs::sums(part, a, b, scratch(bytes, pairs::scratch_len(part)), |r, sums| {
                let start = co + (i + r) * strides[0] + j * strides[1];
                if strides[1] == 1 {
                    // SAFETY: blocks are disjoint, and so are the results of a batch.
                    let out = unsafe { c.range(start, sums.len()) };
                    return pairs::put(sums, [*alpha, *beta], out);
                }
                for (column, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    let out = unsafe { c.range(start + column * strides[1], 1) };
                    pairs::put(&[*sum], [*alpha, *beta], out);
                }
            });
        });
    }
}
