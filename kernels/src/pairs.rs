//! Matrix products of half precision of one thread: operands are rounded to bfloat16, sums are in single precision.

use crate::product::{Dims, Mat};
use crate::simd::{BLOCK, Job, dispatch, prefetch, turn};
use crate::tile::{PANEL, Pair, Tile, pair};
use crate::{DType, Shared, Stored};

/// Pairs of terms that are packed at once, at most.
const PAIRS: usize = 256;
/// Pairs between rows of the packed left operand beyond those of a row; rows a large power of two apart would share cache sets.
pub(crate) const GAP: usize = 16;

/// Numbers of scratch memory that [`Panels`] need.
pub(crate) const fn scratch_len(rows: usize, terms: usize) -> usize {
    rows * line(terms) + (PAIRS + rows) * PANEL
}

/// `a @ b`, a panel of columns after the other. The left operand is rounded once.
pub(crate) struct Panels<'a, B> {
    dims: Dims,
    b: Mat<'a, B>,
    left: &'a [Pair],
    right: &'a mut [Pair],
    sums: &'a mut [f32],
}

impl<'a, B: Stored<f32>> Panels<'a, B> {
    /// Rounds `a`. `scratch` has [`scratch_len`] numbers.
    pub(crate) fn new<A: Stored<f32>>(dims: Dims, a: Mat<'_, A>, b: Mat<'a, B>, scratch: &'a mut [f32]) -> Self {
        let (left, scratch) = scratch.split_at_mut(dims.m * line(dims.k));
        let (right, sums) = scratch.split_at_mut(PAIRS * PANEL);
        pack_rows(a, dims.m, dims.k, left, line(dims.k));
        Panels { dims, b, left, right, sums }
    }

    /// The sums of the panel that begins with `column`: rows of [`PANEL`] or, for few columns, a half or quarter as many.
    pub(crate) fn sums(&mut self, column: usize) -> &[f32] {
        let Dims { m, n, k } = self.dims;
        let sums = &mut self.sums[..m * width(n - column)];
        if k == 0 {
            sums.fill(0.0);
        }
        for from in (0..k).step_by(2 * PAIRS) {
            part(self.dims, self.b, self.left, self.right, [from, column], width(n - column)).run_pairs(sums);
        }
        sums
    }

    /// Whether [`Panels::write`] may take the panel that begins with `column`: one without columns beyond the last, of sums with terms.
    pub(crate) fn is_full(&self, column: usize) -> bool {
        let Dims { n, k, .. } = self.dims;
        k > 0 && width(n - column) <= n - column
    }

    /// Writes them to shared memory instead, if the panel [is full](Self::is_full): a row begins `pitch` after the one before, the first
    /// at `start`.
    ///
    /// # Safety
    /// No other task may access those elements meanwhile.
    #[expect(unsafe_code, reason = "tasks write disjoint blocks")]
    pub(crate) unsafe fn write(&mut self, column: usize, to: &Shared<'_, f32>, start: usize, pitch: usize) {
        assert!(self.is_full(column), "a panel that is written has all its columns, and terms");
        for from in (0..self.dims.k).step_by(2 * PAIRS) {
            let tile = part(self.dims, self.b, self.left, self.right, [from, column], pitch);
            // SAFETY: by the caller's promise.
            unsafe { tile.run_pairs_shared(to, start) };
        }
    }
}

/// The product of some terms for one panel, whose right operand it rounds.
fn part<'t, B: Stored<f32>>(
    Dims { m, n, k }: Dims,
    b: Mat<'_, B>,
    left: &'t [Pair],
    right: &'t mut [Pair],
    [from, column]: [usize; 2],
    pitch: usize,
) -> Tile<'t> {
    let (columns, terms) = (n - column, (2 * PAIRS).min(k - from));
    let width = width(columns);
    pack_panel(b.from(from, column), width.min(columns), terms, right, width);
    let (a, strides) = (&left[from / 2..], [line(k), 1]);
    Tile { rows: m, width, k: terms.div_ceil(2), a, strides, b: right, pitch, add: from > 0 }
}

/// Distance of the rows of the left operand.
const fn line(terms: usize) -> usize {
    terms.div_ceil(2) + GAP
}

/// Width of the panel that holds the first of so many columns.
pub(crate) const fn width(columns: usize) -> usize {
    match columns.div_ceil(PANEL / 4) {
        0..=1 => PANEL / 4,
        2 => PANEL / 2,
        _ => PANEL,
    }
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
                if let Some(stored) = stored_pairs(data).filter(|_| rs.is_multiple_of(2) && whole == pairs) {
                    return turn::<f32, f32, FMA>(stored, rs / 2, [lines, pairs], to, step);
                }
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
                    // What the next panel is packed from, which lies apart.
                    prefetch(data, 2 * p * cs + lines);
                    prefetch(data, (2 * p + 1) * cs + lines);
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

/// Neighbouring terms as the pairs that they are in memory, if they are in half precision and a pair begins at the first.
#[inline(always)]
fn stored_pairs<W: Stored<f32>>(terms: &[W]) -> Option<&[Pair]> {
    if W::views(DType::Bf16) { bytemuck::try_cast_slice(&terms[..terms.len() & !1]).ok() } else { None }
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
