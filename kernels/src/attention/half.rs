//! Attention of half precision on a CPU: the operands of the products are rounded to bfloat16, sums and the softmax are in
//! single precision.
//!
//! A task computes a block of queries. Keys and values of a block are rounded once for all of its queries; scores of a
//! panel of queries, which run along vector lanes, stay in the nearest cache until their exponentials are rounded.

use super::Shape;
use super::operand::{Operand, SharedTarget};
use crate::simd::{Job, LANES, Real, dispatch, exp_each, exp_to_round};
use crate::tile::{PANEL, Pair, Tile, hold, pair_of_results, whole_rows};
use crate::{Launch, SCRATCH_BYTES, scratch_parts};

/// Queries of a block, and keys, at most.
const MOST: [usize; 2] = [1024, 512];
/// Queries of a block at least, where there would be few blocks otherwise. Sums do not depend on it.
const FEW: usize = 256;

/// The largest extents of blocks, powers of two, whose parts scratch memory holds, if any: the first becomes smaller before the second.
pub(crate) fn fit<const N: usize>(
    most: [usize; 2],
    least: [usize; 2],
    parts: impl Fn([usize; 2]) -> [usize; N],
) -> Option<[usize; 2]> {
    let mut extents = most;
    while parts(extents).iter().sum::<usize>() * size_of::<f32>() > SCRATCH_BYTES {
        let smaller = (0..2).find(|&d| extents[d] > least[d])?;
        extents[smaller] /= 2;
    }
    Some(extents)
}

/// Distance of rows of so many pairs: whole cache lines, so that no sixteen pairs lie across two, and an odd number of them, so
/// that rows do not share cache sets.
pub(crate) fn line(pairs: usize) -> usize {
    (pairs.div_ceil(LANES) | 1) * LANES
}

/// Extents of the blocks that a task visits.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    queries: usize,
    keys: usize,
}

impl Blocks {
    /// The largest that scratch memory holds, if any, of which each thread has some.
    pub(super) fn of(s: &Shape, threads: usize) -> Option<Blocks> {
        let [mut queries, keys] = fit(MOST, [PANEL, LANES], |[queries, keys]| Blocks { queries, keys }.parts(s))?;
        while queries > FEW && s.images() * s.queries.div_ceil(queries) < 2 * threads {
            queries /= 2;
        }
        Some(Blocks { queries, keys })
    }

    /// Numbers of scratch memory, in the order in which they are used.
    fn parts(&self, s: &Shape) -> [usize; 8] {
        let Blocks { queries, keys } = *self;
        let (terms, pairs) = (s.dim.div_ceil(2), keys / 2);
        [
            keys * line(terms),                    // key_rows
            whole_rows(s.value_dim) * line(pairs), // value_rows
            queries * terms,                       // query_panels
            keys * PANEL,                          // scores
            pairs * PANEL,                         // exponentials
            queries * whole_rows(s.value_dim),     // sums
            queries,                               // top
            queries,                               // total
        ]
    }
}

#[expect(unsafe_code, reason = "tasks write disjoint rows of the result")]
pub(super) fn run(l: &Launch<'_>, blocks: Blocks) {
    let s = Shape::of(l);
    let [q, k, v] = ["q", "k", "v"].map(|name| Operand::of(l, name));
    let (mask, y, lse) = (l.read_if::<f32>("mask"), SharedTarget::of(l, "y"), l.shared::<f32>("lse"));
    let scale = l.float("scale") as f32;
    let (dim, value_dim) = (s.dim, s.value_dim);
    let (terms, value_lines) = (dim.div_ceil(2), whole_rows(value_dim));
    let (key_line, value_line) = (line(terms), line(blocks.keys / 2));
    let across = s.queries.div_ceil(blocks.queries);
    l.pool.run(s.images() * across, |task, bytes| {
        let _held = hold();
        let (image, from) = (task / across, task % across * blocks.queries);
        let count = blocks.queries.min(s.queries - from);
        let row = image * s.queries + from;
        let parts = scratch_parts::<f32, 8>(bytes, blocks.parts(&s));
        let [key_rows, value_rows, query_panels, scores, exponentials, sums, top, total] = parts;
        for first in (0..count).step_by(PANEL) {
            let (q, to) = (q.from((row + first) * dim), &mut query_panels[first * terms..]);
            q.pack_panel([1, dim], [PANEL.min(count - first), dim], to, PANEL);
        }
        let lanes = count.next_multiple_of(PANEL);
        sums[..lanes * value_lines].fill(0.0);
        top[..lanes].fill(f32::LOWEST);
        total[..lanes].fill(0.0);
        for start in (0..s.keys).step_by(blocks.keys) {
            let keys = blocks.keys.min(s.keys - start);
            let (pairs, at) = (keys.div_ceil(2), image * s.keys + start);
            k.from(at * dim).pack_rows([dim, 1], [keys, dim], key_rows, key_line);
            v.from(at * value_dim).pack_rows([1, value_dim], [value_dim, keys], value_rows, value_line);
            for first in (0..count).step_by(PANEL) {
                let scores = &mut scores[..keys * PANEL];
                let product = Tile {
                    rows: keys,
                    width: PANEL,
                    k: terms,
                    a: key_rows,
                    strides: [key_line, 1],
                    b: &query_panels[first * terms..],
                    pitch: PANEL,
                    add: false,
                };
                product.run_pairs(scores);
                if let Some(mask) = mask {
                    let [_, _, query_stride, key_stride] = s.mask_strides;
                    let mask = &mask[s.mask_start(image) + (from + first) * query_stride + start * key_stride..];
                    for (j, scores) in scores.chunks_exact_mut(PANEL).enumerate() {
                        for (i, score) in scores.iter_mut().enumerate().take(count - first) {
                            *score = *score * scale + mask[i * query_stride + j * key_stride];
                        }
                    }
                }
                let sums = &mut sums[first * value_lines..][..PANEL * value_lines];
                let exponentials = &mut exponentials[..pairs * PANEL];
                dispatch(Soften {
                    factor: if mask.is_some() { 1.0 } else { scale },
                    scores,
                    top: &mut top[first..][..PANEL],
                    total: &mut total[first..][..PANEL],
                    decay: &mut [0.0; PANEL],
                    sums: &mut *sums,
                    exponentials: &mut *exponentials,
                });
                let product = Tile {
                    rows: value_lines,
                    width: PANEL,
                    k: pairs,
                    a: value_rows,
                    strides: [value_line, 1],
                    b: exponentials,
                    pitch: PANEL,
                    add: true,
                };
                product.run_pairs(sums);
            }
        }
        // SAFETY: blocks of queries are disjoint.
        let (mut y, lse) = unsafe { (y.range(row * value_dim, count * value_dim), lse.range(row, count)) };
        for i in 0..count {
            // A NaN stays, and a query without keys has zeros.
            lse[i] = if total[i] == 0.0 { f32::LOWEST } else { (f64::from(top[i]) + f64::from(total[i]).ln()) as f32 };
            total[i] = if total[i] == 0.0 { 0.0 } else { total[i].recip() };
        }
        for first in (0..count).step_by(PANEL) {
            let sums = &mut sums[first * value_lines..][..PANEL * value_dim];
            for sums in sums.chunks_exact_mut(PANEL) {
                sums.iter_mut().zip(&total[first..]).for_each(|(sum, reciprocal)| *sum *= reciprocal);
            }
            y.turn_panel(first * value_dim, [PANEL.min(count - first), value_dim], sums);
        }
    });
}

/// One step of the running softmax of a panel of queries: rounds the exponentials of scores, and rescales what was summed before.
struct Soften<'a> {
    /// What scores are to be multiplied by.
    factor: f32,
    scores: &'a [f32],
    top: &'a mut [f32],
    total: &'a mut [f32],
    /// What the sums are multiplied by, for each query.
    decay: &'a mut [f32],
    sums: &'a mut [f32],
    /// Those of neighbouring keys together.
    exponentials: &'a mut [Pair],
}

impl Job for Soften<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Soften { factor, scores, top, total, decay, sums, exponentials } = self;
        let scores = scores.as_chunks::<PANEL>().0;
        let mut high = [f32::LOWEST; PANEL];
        high.copy_from_slice(top);
        for row in scores {
            for i in 0..PANEL {
                // The next score replaces a NaN, but the exponential of the NaN stays in the total.
                let score = row[i] * factor;
                high[i] = if high[i] > score { high[i] } else { score };
            }
        }
        // Without any score the exponentials are zero whatever is subtracted, if it is finite.
        let mut shift = high;
        for shift in &mut shift {
            *shift = if *shift == f32::LOWEST { 0.0 } else { *shift };
        }
        for (i, decay) in decay.iter_mut().enumerate() {
            [*decay] = exp_each::<FMA, 1>([top[i] - shift[i]]);
        }
        let mut sum = [0.0; PANEL];
        for (rows, to) in scores.chunks(4).zip(exponentials.as_chunks_mut::<PANEL>().0.chunks_mut(2)) {
            let last = rows.len() - 1;
            // Written to copies first: else the loop would check at run time that it does not write what it reads.
            let rows = [rows[0], rows[last.min(1)], rows[last.min(2)], rows[last.min(3)]];
            let (mut first, mut second) = ([0.0; PANEL], [0.0; PANEL]);
            for i in 0..PANEL {
                let x = [
                    rows[0][i].madd::<FMA>(factor, -shift[i]),
                    rows[1][i].madd::<FMA>(factor, -shift[i]),
                    rows[2][i].madd::<FMA>(factor, -shift[i]),
                    rows[3][i].madd::<FMA>(factor, -shift[i]),
                ];
                let mut e = exp_to_round::<FMA, 4>(x);
                for (r, e) in e.iter_mut().enumerate() {
                    *e = if r > last { 0.0 } else { *e };
                }
                sum[i] += (e[0] + e[1]) + (e[2] + e[3]);
                first[i] = pair_of_results(e[0], e[1]);
                second[i] = pair_of_results(e[2], e[3]);
            }
            for (to, pairs) in to.iter_mut().zip([first, second]) {
                *to = pairs;
            }
        }
        for i in 0..PANEL {
            total[i] = total[i].madd::<FMA>(decay[i], sum[i]);
        }
        top.copy_from_slice(&high);
        if decay.iter().any(|decay| *decay != 1.0) {
            for row in sums.chunks_exact_mut(PANEL) {
                for (sum, decay) in row.iter_mut().zip(&*decay) {
                    *sum *= decay;
                }
            }
        }
    }
}
