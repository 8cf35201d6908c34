//! Matrix products of half precision of one thread: operands are rounded to bfloat16, sums are in single precision.

use crate::Stored;
use crate::product::{Dims, Mat};
use crate::simd::{BLOCK, Job, dispatch, prefetch, turn};
use crate::tile::{PANEL, Pair, Tile, pair};

/// Pairs of terms that are packed at once, at most.
const PAIRS: usize = 256;
/// Pairs between rows of the packed left operand beyond those of a row; rows a large power of two apart would share cache sets.
pub(crate) const GAP: usize = 16;

/// Numbers of scratch memory that [`panels`] needs.
pub(crate) const fn scratch_len(rows: usize, terms: usize) -> usize {
    rows * (terms.div_ceil(2) + GAP) + (PAIRS + rows) * PANEL
}

/// `a @ b`, a panel of columns after the other: `put` is called with the first column of each and its sums, rows of [`PANEL`] or, for
/// few columns, half as many. `scratch` has [`scratch_len`] numbers.
pub(crate) fn panels<A: Stored<f32>, B: Stored<f32>>(
    Dims { m, n, k }: Dims,
    a: Mat<'_, A>,
    b: Mat<'_, B>,
    scratch: &mut [f32],
    mut put: impl FnMut(usize, &[f32]),
) {
    let line = k.div_ceil(2) + GAP;
    let (left, scratch) = scratch.split_at_mut(m * line);
    let (right, sums) = scratch.split_at_mut(PAIRS * PANEL);
    pack_rows(a, m, k, left, line);
    for column in (0..n).step_by(PANEL) {
        let width = width(n - column);
        let sums = &mut sums[..m * width];
        if k == 0 {
            sums.fill(0.0);
        }
        for from in (0..k).step_by(2 * PAIRS) {
            let terms = (2 * PAIRS).min(k - from);
            pack_panel(b.from(from, column), PANEL.min(n - column), terms, right, width);
            let tile = Tile {
                rows: m,
                width,
                k: terms.div_ceil(2),
                a: &left[from / 2..],
                strides: [line, 1],
                b: &*right,
                c: &mut *sums,
                pitch: width,
                add: from > 0,
            };
            tile.run_pairs();
        }
        put(column, sums);
    }
}

/// Width of the panel that holds the first of so many columns.
pub(crate) const fn width(columns: usize) -> usize {
    if columns * 2 <= PANEL { PANEL / 2 } else { PANEL }
}

/// Rounds the rows of a left operand: pair `p` of row `i` goes to `to[i * line + p]`. An odd number of terms ends with a zero.
pub(crate) fn pack_rows<W: Stored<f32>>(from: Mat<'_, W>, rows: usize, terms: usize, to: &mut [Pair], line: usize) {
    // Terms that are neighbours are read from beginning to end.
    let most = if from.cs == 1 { terms.max(1) } else { 2 * PAIRS };
    for at in (0..terms).step_by(most) {
        let to = &mut to[at / 2..];
        dispatch(Pack { from: from.from(0, at), lines: rows, terms: (terms - at).min(most), to, line, pair: 1 });
    }
}

/// Rounds columns of a right operand, which make one panel: pair `p` of column `j` goes to `to[p * width + j]`. An odd number of terms
/// ends with a zero, and columns that the panel has beyond are zero.
pub(crate) fn pack_panel<W: Stored<f32>>(
    from: Mat<'_, W>,
    columns: usize,
    terms: usize,
    to: &mut [Pair],
    width: usize,
) {
    let to = &mut to[..terms.div_ceil(2) * width];
    if columns < width {
        to.fill(0.0);
    }
    for at in (0..terms).step_by(2 * PAIRS) {
        let (Mat { data, rs, cs }, to) = (from.from(at, 0), &mut to[at / 2 * width..]);
        let (from, terms) = (Mat { data, rs: cs, cs: rs }, (terms - at).min(2 * PAIRS));
        dispatch(Pack { from, lines: columns, terms, to, line: 1, pair: width });
    }
}

/// Terms that are rounded at once where they are neighbours, and how far ahead of them terms are fetched.
const NEAR: usize = 64;
const AHEAD: usize = 1024;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Lines that are packed together where their terms lie apart, those of a panel at least.
const LINES: usize = 256;
const _: () = assert!(PANEL <= LINES);

/// Packs lines of terms, each term rounded: pair `p` of line `i` goes to `to[i * line + p * pair]`. A line of an odd number of terms
/// ends with a zero.
struct Pack<'a, W> {
    /// Its rows are the lines, its columns the terms.
    from: Mat<'a, W>,
    lines: usize,
    terms: usize,
    to: &'a mut [Pair],
    line: usize,
    pair: usize,
}

impl<W: Stored<f32>> Job for Pack<'_, W> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Pack { from: Mat { data, rs, cs }, lines, terms, to, line, pair: step } = self;
        let (whole, pairs) = (terms / 2, terms.div_ceil(2));
        match (cs, rs, step) {
            // Terms are neighbours before and after.
            (1, _, 1) => {
                for (i, to) in to.chunks_mut(line).take(lines).enumerate() {
                    let to: &mut [u16] = bytemuck::cast_slice_mut(&mut to[..pairs]);
                    for (j, to) in to.chunks_mut(NEAR).enumerate() {
                        let from = &data[i * rs + j * NEAR..][..NEAR.min(terms - j * NEAR)];
                        for term in (0..NEAR).step_by(LINE / size_of::<W>()) {
                            prefetch(data, i * rs + j * NEAR + AHEAD + term);
                        }
                        round(from, to);
                    }
                }
            }
            // Terms are neighbours before and lines after.
            (1, ..) => {
                let mut rounded = [[0.0; PAIRS]; BLOCK];
                for from in (0..lines).step_by(BLOCK) {
                    let count = BLOCK.min(lines - from);
                    for (l, rounded) in rounded[..count].iter_mut().enumerate() {
                        round(&data[(from + l) * rs..][..terms], bytemuck::cast_slice_mut(&mut rounded[..pairs]));
                    }
                    turn::<f32, f32, FMA>(rounded.as_flattened(), PAIRS, [count, pairs], &mut to[from..], step);
                }
            }
            // Lines are neighbours before and after.
            (_, 1, step) if step > 1 => {
                for p in 0..pairs {
                    let to = &mut to[p * step..][..lines];
                    match p < whole {
                        true => join(&data[2 * p * cs..], &data[(2 * p + 1) * cs..], to),
                        false => join(&data[2 * p * cs..], &[W::zeroed(); LINES], to),
                    }
                }
            }
            // Lines are neighbours before and terms after.
            (_, 1, _) => {
                let mut joined = [[0.0; LINES]; BLOCK];
                for from in (0..lines).step_by(LINES) {
                    let count = LINES.min(lines - from);
                    for p in (0..pairs).step_by(BLOCK) {
                        let height = BLOCK.min(pairs - p);
                        for (q, joined) in joined[..height].iter_mut().enumerate() {
                            let joined = &mut joined[..count];
                            let first = &data[2 * (p + q) * cs + from..];
                            match p + q < whole {
                                true => join(first, &data[(2 * (p + q) + 1) * cs + from..], joined),
                                false => join(first, &[W::zeroed(); LINES], joined),
                            }
                        }
                        let to = &mut to[from * line + p..];
                        turn::<f32, f32, FMA>(joined.as_flattened(), LINES, [height, count], to, line);
                    }
                }
            }
            _ => {
                for i in 0..lines {
                    for p in 0..pairs {
                        let second = if p < whole { data[i * rs + (2 * p + 1) * cs] } else { W::zeroed() };
                        to[i * line + p * step] = pair(data[i * rs + 2 * p * cs], second);
                    }
                }
            }
        }
    }
}

/// Rounds neighbouring terms. Where there is room for one more, it is zero.
#[inline(always)]
fn round<W: Stored<f32>>(terms: &[W], to: &mut [u16]) {
    for (to, term) in to.iter_mut().zip(terms) {
        *to = term.half().to_bits();
    }
    if let Some(odd) = to.get_mut(terms.len()) {
        *odd = 0;
    }
}

/// Pairs of the terms of neighbouring lines.
#[inline(always)]
fn join<W: Stored<f32>>(first: &[W], second: &[W], to: &mut [Pair]) {
    for (to, (first, second)) in to.iter_mut().zip(first.iter().zip(second)) {
        *to = pair(*first, *second);
    }
}
