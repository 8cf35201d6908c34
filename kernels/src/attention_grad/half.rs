//! The gradient of attention of half precision on a CPU: the operands of the products are rounded to bfloat16, sums and the
//! softmax are in single precision.
//!
//! As in the form without rounding, a task visits the keys of one batch element and head in blocks, and for each all queries in
//! blocks. Of a block it takes a panel of keys at a time, whose scores stay in a near cache until the probabilities and their
//! gradients are rounded, in the two orders that the products read them in.
//!
//! The gradients of queries are summed in scratch memory. Where it does not hold those of all, the probabilities are computed
//! twice: for the gradients of keys and values, and for as many queries at a time as it holds.

use crate::attention::Shape;
use crate::attention::half::{fit, line};
use crate::attention::operand::{Operand, SharedTarget, Target};
use crate::pairs::width;
use crate::simd::{Job, LANES, Real, dispatch, exp_to_round};
use crate::tile::{PANEL, Pair, Tile, half_of_result, hold, pair_of_results, whole_rows};
use crate::{Launch, SCRATCH_BYTES, scratch_parts};
use std::ops::Range;

/// Keys of a block, and queries, at most.
const MOST: [usize; 2] = [512, 256];

/// Queries whose probabilities are computed together.
const ROWS: usize = 4;

/// Extents of the blocks that a task visits.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    queries: usize,
    keys: usize,
    /// Blocks of queries whose sums are kept while all keys are visited.
    summed: usize,
    /// Blocks of queries that are kept packed meanwhile.
    packed: usize,
}

impl Blocks {
    /// The largest that scratch memory holds, if any.
    pub(super) fn of(s: &Shape) -> Option<Blocks> {
        let one = |[keys, queries]: [usize; 2]| Blocks { queries, keys, summed: 1, packed: 1 };
        let blocks = one(fit(MOST, [PANEL, LANES], |extents| one(extents).parts(s))?);
        let all = s.queries.div_ceil(blocks.queries);
        if s.keys <= blocks.keys || all < 2 {
            return Some(blocks);
        }
        let kept = Blocks { summed: all, packed: all, ..blocks };
        let fits = |blocks: &Blocks| blocks.parts(s).iter().sum::<usize>() * size_of::<f32>() <= SCRATCH_BYTES;
        let summed = (2..=all).rev().map(|summed| Blocks { summed, ..blocks });
        Some(std::iter::once(kept).chain(summed).find(fits).unwrap_or(blocks))
    }

    /// Numbers of scratch memory, in the order in which they are used.
    fn parts(&self, s: &Shape) -> [usize; 17] {
        let Blocks { queries, keys, summed, packed } = *self;
        let (terms, value_terms) = (s.dim.div_ceil(2), s.value_dim.div_ceil(2));
        let columns = s.dim.next_multiple_of(LANES);
        [
            keys * terms,                                         // key_panels
            keys * value_terms,                                   // value_panels
            keys / 2 * columns,                                   // key_columns
            keys * whole_rows(s.dim),                             // dk_sums
            keys * whole_rows(s.value_dim),                       // dv_sums
            queries * PANEL,                                      // scores
            queries * PANEL,                                      // gains
            queries / 2 * PANEL,                                  // p_panel
            queries / 2 * PANEL,                                  // ds_panel
            queries * line(keys / 2),                             // ds_rows
            summed * queries * columns,                           // dq_sums
            packed * queries * line(terms),                       // q_rows
            packed * queries * line(value_terms),                 // dy_rows
            packed * whole_rows(s.dim) * line(queries / 2),       // q_columns
            packed * whole_rows(s.value_dim) * line(queries / 2), // dy_columns
            packed * queries,                                     // deltas
            packed * queries,                                     // lse_or_infinity
        ]
    }
}

#[expect(unsafe_code, reason = "tasks write disjoint parts of the results")]
pub(super) fn run(l: &Launch<'_>, blocks: Blocks) {
    let s = Shape::of(l);
    let [q, k, v, y, dy] = ["q", "k", "v", "y", "dy"].map(|name| Operand::of(l, name));
    let (mask, lse, scale) = (l.read_if::<f32>("mask"), l.read::<f32>("lse"), l.float("scale") as f32);
    let [dq, dk, dv] = ["dq", "dk", "dv"].map(|name| SharedTarget::of(l, name));
    l.pool.run(s.images(), |image, bytes| {
        let _held = hold();
        let (rows, keys) = (image * s.queries, image * s.keys);
        let image = Image {
            s,
            blocks,
            scale,
            q: q.from(rows * s.dim),
            k: k.from(keys * s.dim),
            v: v.from(keys * s.value_dim),
            mask: mask.map(|mask| &mask[s.mask_start(image)..]),
            y: y.from(rows * s.value_dim),
            lse: &lse[rows..],
            dy: dy.from(rows * s.value_dim),
        };
        // SAFETY: the parts of the images are disjoint.
        let [mut dq, mut dk, mut dv] = unsafe {
            [
                dq.range(rows * s.dim, s.queries * s.dim),
                dk.range(keys * s.dim, s.keys * s.dim),
                dv.range(keys * s.value_dim, s.keys * s.value_dim),
            ]
        };
        let mut parts = scratch_parts::<f32, 17>(bytes, blocks.parts(&s));
        let together = blocks.summed * blocks.queries;
        if s.keys <= blocks.keys || s.queries <= together {
            image.visit(&mut parts, 0..s.queries, Some(&mut dq), Some([&mut dk, &mut dv]));
        } else {
            image.visit(&mut parts, 0..s.queries, None, Some([&mut dk, &mut dv]));
            for start in (0..s.queries).step_by(together) {
                image.visit(&mut parts, start..s.queries.min(start + together), Some(&mut dq), None);
            }
        }
    });
}

/// One batch element and head.
struct Image<'a> {
    s: Shape,
    blocks: Blocks,
    scale: f32,
    q: Operand<'a>,
    k: Operand<'a>,
    v: Operand<'a>,
    mask: Option<&'a [f32]>,
    y: Operand<'a>,
    lse: &'a [f32],
    dy: Operand<'a>,
}

impl Image<'_> {
    /// Visits all keys for some queries, and writes the gradients of those queries, or of keys and values, or both. Those of keys
    /// and values are complete if the queries are all there are.
    fn visit(
        &self,
        parts: &mut [&mut [f32]; 17],
        of: Range<usize>,
        mut dq: Option<&mut Target<'_>>,
        mut dk_dv: Option<[&mut Target<'_>; 2]>,
    ) {
        let Image { s: Shape { keys, dim, value_dim, .. }, blocks, k, v, .. } = *self;
        let (terms, value_terms) = (dim.div_ceil(2), value_dim.div_ceil(2));
        let (dk_rows, dv_rows) = (whole_rows(dim), whole_rows(value_dim));
        let columns = dim.next_multiple_of(LANES);
        let (query_line, key_line) = (line(blocks.queries / 2), line(blocks.keys / 2));
        let [key_panels, value_panels, key_columns, dk_sums, dv_sums, parts @ ..] = parts;
        let [scores, gains, p_panel, ds_panel, ds_rows, dq_sums, queries @ ..] = parts;
        if let Some(dq) = dq.as_mut().filter(|_| keys == 0) {
            dq.clear();
        }
        for from in (0..keys).step_by(blocks.keys) {
            let count = blocks.keys.min(keys - from);
            let pairs = count.div_ceil(2);
            let (k, v) = (k.from(from * dim), v.from(from * value_dim));
            for first in (0..count).step_by(PANEL) {
                let lines = PANEL.min(count - first);
                for (from, dim, to) in [(k, dim, &mut *key_panels), (v, value_dim, &mut *value_panels)] {
                    let to = &mut to[first * dim.div_ceil(2)..];
                    from.from(first * dim).pack_panel([1, dim], [lines, dim], to, PANEL);
                }
            }
            for column in (0..dim).step_by(PANEL) {
                let (to, left) = (&mut key_columns[pairs * column..], dim - column);
                k.from(column).pack_panel([dim, 1], [PANEL.min(left), count], to, width(left));
            }
            let panels = count.next_multiple_of(PANEL);
            dk_sums[..panels * dk_rows].fill(0.0);
            dv_sums[..panels * dv_rows].fill(0.0);
            for (index, start) in of.clone().step_by(blocks.queries).enumerate() {
                let block = start..of.end.min(start + blocks.queries);
                let all = block.len().next_multiple_of(ROWS);
                let packed = self.packed(queries, index, block.clone(), from == 0);
                for first in (0..count).step_by(PANEL) {
                    let (scores, gains) = (&mut scores[..all * PANEL], &mut gains[..all * PANEL]);
                    let (p_panel, ds_panel) = (&mut p_panel[..all / 2 * PANEL], &mut ds_panel[..all / 2 * PANEL]);
                    let (rows, right) = (block.len(), &key_panels[first * terms..]);
                    product([rows, terms], packed.q_rows, line(terms), right, scores, false);
                    self.add_mask(scores, block.clone(), from + first);
                    let right = &value_panels[first * value_terms..];
                    product([rows, value_terms], packed.dy_rows, line(value_terms), right, gains, false);
                    dispatch(Slopes {
                        queries: rows,
                        keys: PANEL.min(count - first),
                        factor: if self.mask.is_some() { 1.0 } else { self.scale },
                        scale: self.scale,
                        deltas: packed.deltas,
                        lse: packed.lse_or_infinity,
                        scores,
                        gains,
                        p: &mut *p_panel,
                        ds: &mut *ds_panel,
                        ds_rows: &mut ds_rows[first / 2..],
                        line: key_line,
                    });
                    if dk_dv.is_some() {
                        let pairs = block.len().div_ceil(2);
                        let sums = &mut dv_sums[first * dv_rows..][..PANEL * dv_rows];
                        product([dv_rows, pairs], packed.dy_columns, query_line, p_panel, sums, true);
                        let sums = &mut dk_sums[first * dk_rows..][..PANEL * dk_rows];
                        product([dk_rows, pairs], packed.q_columns, query_line, ds_panel, sums, true);
                    }
                }
                let Some(dq) = &mut dq else { continue };
                let sums = &mut dq_sums[index % blocks.summed * blocks.queries * columns..];
                for column in (0..dim).step_by(PANEL) {
                    let product = Tile {
                        rows: block.len(),
                        width: width(dim - column),
                        k: pairs,
                        a: ds_rows,
                        strides: [key_line, 1],
                        b: &key_columns[pairs * column..],
                        pitch: columns,
                        add: from > 0,
                    };
                    product.run_pairs(&mut sums[column..]);
                }
                if from + count == keys {
                    dq.rows(start * dim, [block.len(), dim], sums, columns);
                }
            }
            let Some([dk, dv]) = &mut dk_dv else { continue };
            for first in (0..count).step_by(PANEL) {
                let columns = PANEL.min(count - first);
                dk.turn_panel((from + first) * dim, [columns, dim], &mut dk_sums[first * dk_rows..]);
                dv.turn_panel((from + first) * value_dim, [columns, value_dim], &mut dv_sums[first * dv_rows..]);
            }
        }
    }

    /// The operands of a block of queries, which is the one with this index among those that are visited, packed if they are not.
    fn packed<'m>(&self, parts: &'m mut [&mut [f32]], index: usize, of: Range<usize>, first: bool) -> Packed<'m> {
        let Image { s: Shape { dim, value_dim, .. }, blocks, scale, q, y, lse, dy, .. } = *self;
        let queries = of.len();
        let (q, y, dy) = (q.from(of.start * dim), y.from(of.start * value_dim), dy.from(of.start * value_dim));
        let slot = index % blocks.packed;
        let mut part = parts.iter_mut().map(|part| {
            let len = part.len() / blocks.packed;
            &mut part[slot * len..][..len]
        });
        let [q_rows, dy_rows, q_columns, dy_columns, deltas, lse_or_infinity] =
            std::array::from_fn(|_| part.next().expect("a part for each operand"));
        if first || blocks.packed == 1 {
            let all = queries.next_multiple_of(ROWS);
            let query_line = line(blocks.queries / 2);
            q.pack_rows([dim, 1], [queries, dim], q_rows, line(dim.div_ceil(2)));
            dy.pack_rows([value_dim, 1], [queries, value_dim], dy_rows, line(value_dim.div_ceil(2)));
            q.pack_rows([1, dim], [dim, queries], q_columns, query_line);
            dy.pack_rows([1, value_dim], [value_dim, queries], dy_columns, query_line);
            y.dots(dy, value_dim, -scale, &mut deltas[..queries]);
            for (to, lse) in lse_or_infinity.iter_mut().zip(&lse[of]) {
                // A query without keys has no probabilities. A NaN becomes one that rounding keeps.
                *to = if *lse == f32::LOWEST { f32::INFINITY } else { *lse };
                *to = if to.is_nan() { f32::NAN } else { *to };
            }
            deltas[queries..all].fill(0.0);
            lse_or_infinity[queries..all].fill(0.0);
        }
        Packed { q_rows, dy_rows, q_columns, dy_columns, deltas, lse_or_infinity }
    }

    /// Multiplies the scores of a panel of keys, the first of which is `key`, and adds the mask, if there is one.
    fn add_mask(&self, scores: &mut [f32], queries: Range<usize>, key: usize) {
        let Some(mask) = self.mask else { return };
        let [_, _, query_stride, key_stride] = self.s.mask_strides;
        for (scores, query) in scores.chunks_exact_mut(PANEL).zip(queries) {
            for (score, key) in scores.iter_mut().zip(key..self.s.keys) {
                *score = *score * self.scale + mask[query * query_stride + key * key_stride];
            }
        }
    }
}

/// `c = a @ b` for a panel of columns, or `c += a @ b` if `add`; rows of `a` are `line` apart.
fn product([rows, k]: [usize; 2], a: &[Pair], line: usize, b: &[Pair], c: &mut [f32], add: bool) {
    Tile { rows, width: PANEL, k, a, strides: [line, 1], b, pitch: PANEL, add }.run_pairs(c);
}

/// The operands of a block of queries.
struct Packed<'a> {
    q_rows: &'a [Pair],
    dy_rows: &'a [Pair],
    q_columns: &'a [Pair],
    dy_columns: &'a [Pair],
    /// `-scale * dy . y` of each query.
    deltas: &'a [f32],
    /// Infinity for a query without keys.
    lse_or_infinity: &'a [f32],
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
    fn run<const FMA: bool>(mut self) {
        for first in (0..self.scores.len() / PANEL).step_by(ROWS) {
            for column in (0..PANEL).step_by(LANES) {
                if first + ROWS <= self.queries && column + LANES <= self.keys {
                    self.some::<FMA, true>(first, column);
                } else {
                    self.some::<FMA, false>(first, column);
                }
            }
        }
    }
}

impl Slopes<'_> {
    /// Those of some queries and keys, which are `ALL` there or not.
    #[inline(always)]
    fn some<const FMA: bool, const ALL: bool>(&mut self, first: usize, column: usize) {
        let Slopes { factor, scale, .. } = *self;
        // Copied first: else the loop would check at run time that it does not write what it reads.
        let row = |of: &[f32], r: usize| {
            let mut row = [0.0; LANES];
            row.copy_from_slice(&of[(first + r) * PANEL + column..][..LANES]);
            row
        };
        let scores: [_; ROWS] = std::array::from_fn(|r| row(self.scores, r));
        let gains: [_; ROWS] = std::array::from_fn(|r| row(self.gains, r));
        let deltas: [f32; ROWS] = std::array::from_fn(|r| self.deltas[first + r]);
        let lse: [f32; ROWS] = std::array::from_fn(|r| self.lse[first + r]);
        let (mut p, mut ds) = ([[0.0; LANES]; ROWS / 2], [[0.0; LANES]; ROWS / 2]);
        let mut ds_rows = [[0_u16; LANES]; ROWS];
        for j in 0..LANES {
            let mut e = exp_to_round::<FMA, ROWS>(std::array::from_fn(|r| scores[r][j].madd::<FMA>(factor, -lse[r])));
            let mut slope: [f32; ROWS] = std::array::from_fn(|r| e[r] * gains[r][j].madd::<FMA>(scale, deltas[r]));
            if !ALL {
                // Beyond the last query and the last key they may be anything.
                for r in 0..ROWS {
                    let inside = first + r < self.queries && column + j < self.keys;
                    e[r] = if inside { e[r] } else { 0.0 };
                    slope[r] = if inside { slope[r] } else { 0.0 };
                }
            }
            for r in 0..ROWS / 2 {
                p[r][j] = pair_of_results(e[2 * r], e[2 * r + 1]);
                ds[r][j] = pair_of_results(slope[2 * r], slope[2 * r + 1]);
            }
            for r in 0..ROWS {
                ds_rows[r][j] = half_of_result(slope[r]);
            }
        }
        for r in 0..ROWS / 2 {
            let at = (first / 2 + r) * PANEL + column;
            self.p[at..][..LANES].copy_from_slice(&p[r]);
            self.ds[at..][..LANES].copy_from_slice(&ds[r]);
        }
        for (r, ds) in ds_rows.iter().enumerate() {
            let to: &mut [u16] = bytemuck::cast_slice_mut(&mut self.ds_rows[(first + r) * self.line..][..PANEL / 2]);
            to[column..][..LANES].copy_from_slice(ds);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Blocks, run};
    use crate::Kernel;

    /// The kernel with small blocks of queries, of which it keeps all, the sums of all, or those of some.
    pub(crate) static FORMS: [Kernel; 3] = [
        Kernel { cpu: |l| run(l, Blocks { queries: 32, keys: 64, summed: 3, packed: 3 }), ..super::super::KERNEL },
        Kernel { cpu: |l| run(l, Blocks { queries: 32, keys: 64, summed: 3, packed: 1 }), ..super::super::KERNEL },
        Kernel { cpu: |l| run(l, Blocks { queries: 32, keys: 64, summed: 2, packed: 1 }), ..super::super::KERNEL },
    ];
}
