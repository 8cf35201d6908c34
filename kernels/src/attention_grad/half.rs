//! The gradient of attention of half precision on a CPU: the operands of the products are rounded to bfloat16, sums and the
//! softmax are in single precision.
//!
//! As in the form without rounding, a task visits the keys of one batch element and head in blocks, and for each all queries in
//! blocks. Of a block it takes a panel of keys at a time, whose scores stay in a near cache until the probabilities and their
//! gradients are rounded, in the two orders that the products read them in.

use crate::attention::{Shape, half::fit};
use crate::pairs::{GAP, pack_panel, pack_rows, width};
use crate::product::Mat;
use crate::simd::{Job, LANES, Real, Turn, dispatch, dot, exp_to_round};
use crate::tile::{PANEL, Pair, Tile, half_of_result, hold, pair_of_results, whole_rows};
use crate::{Launch, scratch_parts};

/// Keys of a block, and queries, at most.
const MOST: [usize; 2] = [512, 256];

/// Queries whose probabilities are computed together.
const ROWS: usize = 4;

/// Extents of the blocks that a task visits.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    queries: usize,
    keys: usize,
}

impl Blocks {
    /// The largest that scratch memory holds, if any.
    pub(super) fn of(s: &Shape) -> Option<Blocks> {
        let [keys, queries] = fit(MOST, [PANEL, LANES], |[keys, queries]| Blocks { queries, keys }.parts(s))?;
        Some(Blocks { queries, keys })
    }

    /// Numbers of scratch memory, in the order in which they are used.
    fn parts(&self, s: &Shape) -> [usize; 17] {
        let Blocks { queries, keys } = *self;
        let (terms, value_terms) = (s.dim.div_ceil(2), s.value_dim.div_ceil(2));
        let columns = s.dim.next_multiple_of(PANEL);
        [
            keys * terms,                                  // key_panels
            keys * value_terms,                            // value_panels
            keys / 2 * columns,                            // key_columns
            keys * whole_rows(s.dim),                      // dk_sums
            keys * whole_rows(s.value_dim),                // dv_sums
            queries * (terms + GAP),                       // q_rows
            queries * (value_terms + GAP),                 // dy_rows
            whole_rows(s.dim) * (queries / 2 + GAP),       // q_columns
            whole_rows(s.value_dim) * (queries / 2 + GAP), // dy_columns
            queries,                                       // deltas
            queries,                                       // lse_or_infinity
            queries * PANEL,                               // scores
            queries * PANEL,                               // gains
            queries / 2 * PANEL,                           // p_panel
            queries / 2 * PANEL,                           // ds_panel
            queries * (keys / 2 + GAP),                    // ds_rows
            queries * columns,                             // dq_sums
        ]
    }
}

/// `c = a @ b` for a panel of columns, or `c += a @ b` if `add`; rows of `a` are `line` apart.
fn product([rows, k]: [usize; 2], a: &[Pair], line: usize, b: &[Pair], c: &mut [f32], add: bool) {
    Tile { rows, width: PANEL, k, a, strides: [line, 1], b, pitch: PANEL, add }.run_pairs(c);
}

#[expect(unsafe_code, reason = "tasks write disjoint parts of the results")]
pub(super) fn run(l: &Launch<'_>, blocks: Blocks) {
    let s = Shape::of(l);
    let (q, k, v, mask) = (l.read::<f32>("q"), l.read::<f32>("k"), l.read::<f32>("v"), l.read_if::<f32>("mask"));
    let (y, lse, dy) = (l.read::<f32>("y"), l.read::<f32>("lse"), l.read::<f32>("dy"));
    let (dq, dk, dv) = (l.shared::<f32>("dq"), l.shared::<f32>("dk"), l.shared::<f32>("dv"));
    let scale = l.float("scale") as f32;
    let (dim, value_dim) = (s.dim, s.value_dim);
    let (terms, value_terms) = (dim.div_ceil(2), value_dim.div_ceil(2));
    let (dk_rows, dv_rows) = (whole_rows(dim), whole_rows(value_dim));
    let columns = dim.next_multiple_of(PANEL);
    let (query_line, key_line) = (blocks.queries / 2 + GAP, blocks.keys / 2 + GAP);
    l.pool.run(s.images(), |image, bytes| {
        let _held = hold();
        let (rows, keys) = (image * s.queries, image * s.keys);
        let (q, y, lse, dy) = (&q[rows * dim..], &y[rows * value_dim..], &lse[rows..], &dy[rows * value_dim..]);
        let (k, v) = (&k[keys * dim..], &v[keys * value_dim..]);
        // SAFETY: the parts of the images are disjoint.
        let (dq, dk, dv) = unsafe {
            (
                dq.range(rows * dim, s.queries * dim),
                dk.range(keys * dim, s.keys * dim),
                dv.range(keys * value_dim, s.keys * value_dim),
            )
        };
        let parts = scratch_parts::<f32, 17>(bytes, blocks.parts(&s));
        let [key_panels, value_panels, key_columns, dk_sums, dv_sums, parts @ ..] = parts;
        let [q_rows, dy_rows, q_columns, dy_columns, deltas, lse_or_infinity, parts @ ..] = parts;
        let [scores, gains, p_panel, ds_panel, ds_rows, dq_sums] = parts;
        dq.fill(0.0);
        for from in (0..s.keys).step_by(blocks.keys) {
            let count = blocks.keys.min(s.keys - from);
            let (k, v) = (&k[from * dim..], &v[from * value_dim..]);
            for first in (0..count).step_by(PANEL) {
                let (lines, k, v) = (PANEL.min(count - first), &k[first * dim..], &v[first * value_dim..]);
                pack_panel(Mat::new(k, 1, dim), lines, dim, &mut key_panels[first * terms..], PANEL);
                pack_panel(
                    Mat::new(v, 1, value_dim),
                    lines,
                    value_dim,
                    &mut value_panels[first * value_terms..],
                    PANEL,
                );
            }
            for column in (0..dim).step_by(PANEL) {
                let to = &mut key_columns[count.div_ceil(2) * column..];
                pack_panel(Mat::new(&k[column..], dim, 1), PANEL.min(dim - column), count, to, width(dim - column));
            }
            let lanes = count.next_multiple_of(PANEL);
            dk_sums[..lanes * dk_rows].fill(0.0);
            dv_sums[..lanes * dv_rows].fill(0.0);
            for start in (0..s.queries).step_by(blocks.queries) {
                let queries = blocks.queries.min(s.queries - start);
                let (pairs, all) = (queries.div_ceil(2), queries.next_multiple_of(ROWS));
                let (q, dy, y) = (&q[start * dim..], &dy[start * value_dim..], &y[start * value_dim..]);
                pack_rows(Mat::new(q, dim, 1), queries, dim, q_rows, terms + GAP);
                pack_rows(Mat::new(dy, value_dim, 1), queries, value_dim, dy_rows, value_terms + GAP);
                pack_rows(Mat::new(q, 1, dim), dim, queries, q_columns, query_line);
                pack_rows(Mat::new(dy, 1, value_dim), value_dim, queries, dy_columns, query_line);
                dispatch(Deltas { y, dy, value_dim, scale, to: &mut deltas[..queries] });
                for (to, lse) in lse_or_infinity.iter_mut().zip(&lse[start..][..queries]) {
                    // A query without keys has no probabilities. A NaN becomes one that rounding keeps.
                    *to = if *lse == f32::LOWEST { f32::INFINITY } else { *lse };
                    *to = if to.is_nan() { f32::NAN } else { *to };
                }
                deltas[queries..all].fill(0.0);
                lse_or_infinity[queries..all].fill(0.0);
                for first in (0..count).step_by(PANEL) {
                    let (scores, gains) = (&mut scores[..all * PANEL], &mut gains[..all * PANEL]);
                    let (p_panel, ds_panel) = (&mut p_panel[..all / 2 * PANEL], &mut ds_panel[..all / 2 * PANEL]);
                    let right = &key_panels[first * terms..];
                    product([queries, terms], q_rows, terms + GAP, right, scores, false);
                    if let Some(mask) = mask {
                        let [_, _, query_stride, key_stride] = s.mask_strides;
                        let mask = &mask[s.mask_start(image) + start * query_stride + (from + first) * key_stride..];
                        for (i, scores) in scores.chunks_exact_mut(PANEL).enumerate().take(queries) {
                            for (j, score) in scores.iter_mut().enumerate().take(count - first) {
                                *score = *score * scale + mask[i * query_stride + j * key_stride];
                            }
                        }
                    }
                    let right = &value_panels[first * value_terms..];
                    product([queries, value_terms], dy_rows, value_terms + GAP, right, gains, false);
                    dispatch(Slopes {
                        queries,
                        keys: PANEL.min(count - first),
                        factor: if mask.is_some() { 1.0 } else { scale },
                        scale,
                        deltas: &*deltas,
                        lse: &*lse_or_infinity,
                        scores,
                        gains,
                        p: &mut *p_panel,
                        ds: &mut *ds_panel,
                        ds_rows: &mut ds_rows[first / 2..],
                        line: key_line,
                    });
                    let sums = &mut dv_sums[first * dv_rows..][..PANEL * dv_rows];
                    product([dv_rows, pairs], dy_columns, query_line, p_panel, sums, true);
                    let sums = &mut dk_sums[first * dk_rows..][..PANEL * dk_rows];
                    product([dk_rows, pairs], q_columns, query_line, ds_panel, sums, true);
                }
                let keys = count.div_ceil(2);
                for column in (0..dim).step_by(PANEL) {
                    let product = Tile {
                        rows: queries,
                        width: width(dim - column),
                        k: keys,
                        a: ds_rows,
                        strides: [key_line, 1],
                        b: &key_columns[keys * column..],
                        pitch: columns,
                        add: false,
                    };
                    product.run_pairs(&mut dq_sums[column..]);
                }
                let dq = &mut dq[start * dim..][..queries * dim];
                for (dq, sums) in dq.chunks_exact_mut(dim.max(1)).zip(dq_sums.chunks_exact(columns.max(1))) {
                    dq.iter_mut().zip(sums).for_each(|(dq, sum)| *dq += sum);
                }
            }
            for first in (0..count).step_by(PANEL) {
                let cols = PANEL.min(count - first);
                for (sums, rows, dim, to) in
                    [(&*dk_sums, dk_rows, dim, &mut *dk), (&*dv_sums, dv_rows, value_dim, &mut *dv)]
                {
                    let (source, target) = (&sums[first * rows..], &mut to[(from + first) * dim..]);
                    dispatch(Turn { source, source_row: PANEL, rows: dim, cols, target, target_row: dim });
                }
            }
        }
    });
}

/// `-scale * dy . y` of each query.
struct Deltas<'a> {
    y: &'a [f32],
    dy: &'a [f32],
    value_dim: usize,
    scale: f32,
    to: &'a mut [f32],
}

impl Job for Deltas<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Deltas { y, dy, value_dim, scale, to } = self;
        for (i, to) in to.iter_mut().enumerate() {
            let row = i * value_dim..(i + 1) * value_dim;
            *to = -scale * dot::<f32, FMA>(&y[row.clone()], &dy[row]);
            // One that rounding keeps.
            *to = if to.is_nan() { f32::NAN } else { *to };
        }
    }
}

/// Rounds the probabilities of a panel of keys and the gradients of their unscaled scores.
struct Slopes<'a> {
    /// Queries that there are.
    queries: usize,
    /// Keys that there are.
    keys: usize,
    /// What scores are to be multiplied by.
    factor: f32,
    scale: f32,
    deltas: &'a [f32],
    lse: &'a [f32],
    scores: &'a [f32],
    /// Products of `dy` and `v`.
    gains: &'a [f32],
    /// Probabilities, those of neighbouring queries together.
    p: &'a mut [Pair],
    /// Gradients, those of neighbouring queries together.
    ds: &'a mut [Pair],
    /// Gradients, those of neighbouring keys together; a query after `line` pairs.
    ds_rows: &'a mut [Pair],
    line: usize,
}

impl Job for Slopes<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Slopes { queries, keys, factor, scale, deltas, lse, scores, gains, p, ds, ds_rows, line } = self;
        let (scores, gains) = (scores.as_chunks::<PANEL>().0, gains.as_chunks::<PANEL>().0);
        let (p, ds) = (p.as_chunks_mut::<PANEL>().0, ds.as_chunks_mut::<PANEL>().0);
        for (at, (p, ds)) in p.chunks_mut(2).zip(ds.chunks_mut(2)).enumerate() {
            let first = at * ROWS;
            let (scores, gains) = (&scores[first..][..ROWS], &gains[first..][..ROWS]);
            let (deltas, lse) = (&deltas[first..][..ROWS], &lse[first..][..ROWS]);
            let (mut probabilities, mut slopes) = ([[0.0; PANEL]; ROWS], [[0.0; PANEL]; ROWS]);
            for j in 0..PANEL {
                let e = exp_to_round::<FMA, ROWS>([
                    scores[0][j].madd::<FMA>(factor, -lse[0]),
                    scores[1][j].madd::<FMA>(factor, -lse[1]),
                    scores[2][j].madd::<FMA>(factor, -lse[2]),
                    scores[3][j].madd::<FMA>(factor, -lse[3]),
                ]);
                for r in 0..ROWS {
                    probabilities[r][j] = e[r];
                    slopes[r][j] = e[r] * gains[r][j].madd::<FMA>(scale, deltas[r]);
                }
            }
            // Beyond the last query and the last key they may be anything.
            if queries - first < ROWS {
                probabilities[queries - first..].fill([0.0; PANEL]);
                slopes[queries - first..].fill([0.0; PANEL]);
            }
            if keys < PANEL {
                // Probabilities of keys beyond the last are sums that nobody takes; the gradients are terms of those of queries.
                for slopes in &mut slopes {
                    slopes[keys..].fill(0.0);
                }
            }
            for r in 0..ROWS {
                let to: &mut [u16] = bytemuck::cast_slice_mut(&mut ds_rows[(first + r) * line..][..PANEL / 2]);
                let to = to.as_chunks_mut::<LANES>().0;
                for (to, slopes) in to.iter_mut().zip(slopes[r].as_chunks::<LANES>().0) {
                    for j in 0..LANES {
                        to[j] = half_of_result(slopes[j]);
                    }
                }
            }
            for (to, from) in [(p, &probabilities), (ds, &slopes)] {
                for (to, rows) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                    for j in 0..PANEL {
                        to[j] = pair_of_results(rows[0][j], rows[1][j]);
                    }
                }
            }
        }
    }
}
