//! The product with an operand in half precision: the other is rounded to it, and the sums are in single precision.
//!
//! A task computes one block of the result, a chunk of terms at a time: it packs both operands as pairs of terms and keeps the
//! block's sums in its scratch memory.

use super::cpu::{Batch, two};
use crate::simd::{Job, dispatch};
use crate::tile::{PANEL, Pair, Tile, pair};
use crate::{DType, Launch, SCRATCH_BYTES, Stored, scratch};
use half::bf16;

/// Rows of a block at most.
const ROWS: usize = 256;
/// Columns of a block at most.
const COLUMNS: usize = 512;
/// Pairs of terms in a chunk at most.
const PAIRS: usize = 256;
/// Pairs between rows of the left operand at most; rows a large power of two apart would share cache sets.
const PITCH: usize = PAIRS + 16;
/// Blocks that a large product is cut into at least.
const TASKS: usize = 8;
const _: () = assert!((ROWS * (PITCH + COLUMNS) + PAIRS * COLUMNS) * size_of::<f32>() <= SCRATCH_BYTES);

pub(super) fn run(l: &Launch<'_>) {
    match (l.dtype("a"), l.dtype("b")) {
        (DType::Bf16, DType::Bf16) => typed(l, l.read::<bf16>("a"), l.read::<bf16>("b")),
        (DType::Bf16, _) => typed(l, l.read::<bf16>("a"), l.read::<f32>("b")),
        _ => typed(l, l.read::<f32>("a"), l.read::<bf16>("b")),
    }
}

fn typed<A: Stored<f32>, B: Stored<f32>>(l: &Launch<'_>, a: &[A], b: &[B]) {
    let [m, n] = ["m", "n"].map(|name| l.int(name));
    let [sa, sb, sc] = ["a_strides", "b_strides", "c_strides"].map(|name| two(l.ints(name)));
    let mut batch = Batch::of(l);
    let turn = |[row, column]: [usize; 2]| [column, row];
    if sc[0] < sc[1] {
        // Rows of the result are to be contiguous, so the transposed product is computed otherwise.
        batch.strides.swap(0, 1);
        blocks(
            l,
            &batch,
            [n, m],
            Operand { data: b, strides: turn(sb) },
            Operand { data: a, strides: turn(sa) },
            turn(sc),
        );
    } else {
        blocks(l, &batch, [m, n], Operand { data: a, strides: sa }, Operand { data: b, strides: sb }, sc);
    }
}

/// A matrix that is read.
#[derive(Clone, Copy)]
struct Operand<'a, W> {
    data: &'a [W],
    /// Distance of its rows and of its columns.
    strides: [usize; 2],
}

impl<'a, W> Operand<'a, W> {
    /// The matrix from element `start`, row `row` and column `column` on.
    fn from(&self, start: usize, row: usize, column: usize) -> Operand<'a, W> {
        let at = start + row * self.strides[0] + column * self.strides[1];
        Operand { data: &self.data[at.min(self.data.len())..], ..*self }
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

#[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
fn blocks<A: Stored<f32>, B: Stored<f32>>(
    l: &Launch<'_>,
    batch: &Batch<'_>,
    [m, n]: [usize; 2],
    a: Operand<'_, A>,
    b: Operand<'_, B>,
    sc: [usize; 2],
) {
    let (k, count) = (l.int("k"), batch.count());
    let (alpha, beta) = (l.float("alpha") as f32, l.float("beta") as f32);
    let c = l.shared::<f32>("c");
    if m * n * count == 0 {
        return;
    }
    let [bm, bn] = block(m, n, count);
    let (down, across) = (m.div_ceil(bm), n.div_ceil(bn));
    l.pool.run(count * down * across, |task, bytes| {
        let (index, block) = (task / (down * across), task % (down * across));
        let [ao, bo, co] = batch.at(index);
        let (i, j) = (block % down * bm, block / down * bn);
        let (rows, columns) = (bm.min(m - i), bn.min(n - j));
        let width = columns.next_multiple_of(PANEL);
        let (left, rest) =
            scratch::<Pair>(bytes, ROWS * PITCH + PAIRS * COLUMNS + ROWS * COLUMNS).split_at_mut(ROWS * PITCH);
        let (right, sums) = rest.split_at_mut(PAIRS * COLUMNS);
        let chunks = k.div_ceil(2 * PAIRS).max(1);
        // Whole pairs, but for the last chunk.
        let chunk = k.div_ceil(chunks).next_multiple_of(2);
        for from in (0..k.max(1)).step_by(chunk.max(1)) {
            let terms = chunk.min(k - from.min(k));
            let pairs = terms.div_ceil(2);
            dispatch(Pack { from: a.from(ao, i, from), lines: rows, terms, to: &mut *left, line: PITCH, pair: 1 });
            for panel in 0..width / PANEL {
                let source = b.from(bo, from, j + panel * PANEL);
                let turned = Operand { data: source.data, strides: [source.strides[1], source.strides[0]] };
                let lines = PANEL.min(columns - panel * PANEL);
                let to = &mut right[panel * PAIRS * PANEL..][..pairs * PANEL];
                if lines < PANEL {
                    to.fill(0.0);
                }
                dispatch(Pack { from: turned, lines, terms, to: &mut *to, line: 1, pair: PANEL });
                let tile = Tile {
                    rows,
                    width: PANEL,
                    k: pairs,
                    a: &*left,
                    strides: [PITCH, 1],
                    b: &*to,
                    c: &mut sums[panel * PANEL..],
                    pitch: COLUMNS,
                    add: from > 0,
                };
                tile.run_pairs();
            }
        }
        for r in 0..rows {
            let sums = &sums[r * COLUMNS..][..columns];
            let start = co + (i + r) * sc[0] + j * sc[1];
            if sc[1] == 1 {
                // SAFETY: blocks are disjoint, and so are the results of a batch.
                let out = unsafe { c.range(start, columns) };
                dispatch(Put { sums, alpha, beta, out });
            } else {
                for (column, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    let out = unsafe { c.range(start + column * sc[1], 1) };
                    dispatch(Put { sums: &[*sum], alpha, beta, out });
                }
            }
        }
    });
}

/// Writes `alpha * sums + beta * out`; with `beta` zero `out` is not read.
struct Put<'a> {
    sums: &'a [f32],
    alpha: f32,
    beta: f32,
    out: &'a mut [f32],
}

impl Job for Put<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Put { sums, alpha, beta, out } = self;
        if beta == 0.0 {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = alpha * sum);
        } else {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = alpha * sum + beta * *out);
        }
    }
}

/// Packs lines of terms, each term rounded: pair `p` of line `i` goes to `to[i * line + p * pair]`. A line of an odd number of terms
/// ends with a zero.
struct Pack<'a, W> {
    /// Its rows are the lines, its columns the terms.
    from: Operand<'a, W>,
    lines: usize,
    terms: usize,
    to: &'a mut [Pair],
    line: usize,
    pair: usize,
}

/// Lines that are packed together where terms lie apart.
const LINES: usize = 16;

impl<W: Stored<f32>> Job for Pack<'_, W> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Pack { from: Operand { data, strides: [apart, step] }, lines, terms, to, line, pair: jump } = self;
        let whole = terms / 2;
        if apart == 1 && lines > 1 {
            // Neighbouring lines are neighbours in memory: pairs of terms are made for some lines at once.
            for p in 0..terms.div_ceil(2) {
                let first = &data[2 * p * step..];
                let second = if p < whole { &data[(2 * p + 1) * step..] } else { &[][..] };
                for from in (0..lines).step_by(LINES) {
                    let count = LINES.min(lines - from);
                    let mut made = [0.0; LINES];
                    if p < whole {
                        let (x, y) = (&first[from..][..count], &second[from..][..count]);
                        made.iter_mut().zip(x.iter().zip(y)).for_each(|(m, (x, y))| *m = pair(*x, *y));
                    } else {
                        made.iter_mut().zip(&first[from..][..count]).for_each(|(m, x)| *m = pair(*x, W::zeroed()));
                    }
                    if line == 1 {
                        to[p * jump + from..][..count].copy_from_slice(&made[..count]);
                    } else {
                        for (i, made) in made[..count].iter().enumerate() {
                            to[(from + i) * line + p * jump] = *made;
                        }
                    }
                }
            }
            return;
        }
        for i in 0..lines {
            let data = &data[i * apart..];
            if step == 1 && jump == 1 {
                let (twos, rest) = data[..terms].as_chunks::<2>();
                let to = &mut to[i * line..];
                to.iter_mut().zip(twos).for_each(|(to, two)| *to = pair(two[0], two[1]));
                if let [last] = rest {
                    to[whole] = pair(*last, W::zeroed());
                }
                continue;
            }
            for p in 0..terms.div_ceil(2) {
                let second = if p < whole { data[(2 * p + 1) * step] } else { W::zeroed() };
                to[i * line + p * jump] = pair(data[2 * p * step], second);
            }
        }
    }
}
