//! Matrix products of half precision of one thread: operands are rounded to bfloat16, sums are in single precision.

use crate::product::{Dims, Mat};
use crate::simd::{BLOCK, Job, dispatch, prefetch, turn};
use crate::tile::{PANEL, Pair, Tile, pair};
use crate::{DType, Shared, Stored};
use std::ops::Range;

/// Pairs of terms that are packed at once, at most.
const PAIRS: usize = 256;
/// Pairs between rows of the packed left operand beyond those of a row; rows a large power of two apart would share cache sets.
pub(crate) const GAP: usize = 16;

/// Columns that are packed together at most, so that a row of the right operand is read for several cache lines at once.
pub(crate) const GROUP: usize = 8 * PANEL;
/// Distance of the rows of sums.
pub(crate) const SUMS: usize = GROUP + GAP;

/// Numbers of scratch memory that [`Panels`] need.
pub(crate) const fn scratch_len(rows: usize, terms: usize) -> usize {
    rows * line(terms) + PAIRS * GROUP + rows * SUMS
}

/// `a @ b`, a group of columns after the other. The left operand is rounded once.
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
        let (right, sums) = scratch.split_at_mut(PAIRS * GROUP);
        pack_rows(a, dims.m, dims.k, left, line(dims.k));
        Panels { dims, b, left, right, sums }
    }

    /// The sums of a group of columns, in rows that are [`SUMS`] apart.
    pub(crate) fn sums(&mut self, columns: Range<usize>) -> &[f32] {
        let Panels { dims, b, left, right, sums } = self;
        if dims.k == 0 {
            sums.fill(0.0);
        }
        tiles(*dims, *b, left, right, columns, SUMS, |tile, column| tile.run_pairs(&mut sums[column..]));
        sums
    }

    /// Whether [`Panels::write`] may take these columns: whether panels of them have no others, and sums have terms.
    pub(crate) fn is_full(&self, columns: &Range<usize>) -> bool {
        let rest = columns.len() % PANEL;
        self.dims.k > 0 && (rest == 0 || width(rest) == rest)
    }

    /// Writes them to shared memory instead, if the group [is full](Self::is_full): a row begins `pitch` after the one before, the first
    /// at `start`.
    ///
    /// # Safety
    /// No other task may access those elements meanwhile.
    #[expect(unsafe_code, reason = "tasks write disjoint blocks")]
    pub(crate) unsafe fn write(&mut self, columns: Range<usize>, to: &Shared<'_, f32>, start: usize, pitch: usize) {
        assert!(self.is_full(&columns), "panels that are written have all their columns, and terms");
        let Panels { dims, b, left, right, .. } = self;
        tiles(*dims, *b, left, right, columns, pitch, |tile, column| {
            // SAFETY: by the caller's promise.
            unsafe { tile.run_pairs_shared(to, start + column) };
        });
    }
}

/// Gives the products of a group of columns, some terms at a time, whose right operand it rounds, and where in the group they begin: those
/// of whole panels, and of a narrower one that is the last.
fn tiles<B: Stored<f32>>(
    Dims { m, k, .. }: Dims,
    b: Mat<'_, B>,
    left: &[Pair],
    right: &mut [Pair],
    columns: Range<usize>,
    pitch: usize,
    mut give: impl FnMut(Tile<'_>, usize),
) {
    assert!(columns.len() <= GROUP, "a group has at most {GROUP} columns");
    let rest = columns.len() % PANEL;
    let (whole, last) = match columns.len() - rest {
        whole if rest == 0 => (whole, 0),
        whole if width(rest) == PANEL => (whole + PANEL, 0),
        whole => (whole, width(rest)),
    };
    for from in (0..k).step_by(2 * PAIRS) {
        let terms = (2 * PAIRS).min(k - from);
        let pairs = terms.div_ceil(2);
        let (a, strides, add) = (&left[from / 2..], [line(k), 1], from > 0);
        pack_panels(b.from(from, columns.start), columns.len(), terms, right);
        for (column, width) in [(0, whole), (whole, last)].into_iter().filter(|(_, width)| *width > 0) {
            give(Tile { rows: m, width, k: pairs, a, strides, b: &right[column * pairs..], pitch, add }, column);
        }
    }
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

/// Rounds columns of a right operand: panels as of [`pack_panel`], of which the last may be narrower.
fn pack_panels<W: Stored<f32>>(from: Mat<'_, W>, columns: usize, terms: usize, to: &mut [Pair]) {
    let pairs = terms.div_ceil(2);
    if from.cs == 1 && columns >= PANEL {
        dispatch(PackAcross { from, columns: columns / PANEL * PANEL, terms, to: &mut *to });
    }
    let packed = if from.cs == 1 { columns / PANEL * PANEL } else { 0 };
    for column in (packed..columns).step_by(PANEL) {
        let some = PANEL.min(columns - column);
        pack_panel(from.from(0, column), some, terms, &mut to[column * pairs..], width(some));
    }
}

/// Packs whole panels whose columns are neighbours, a row after the other. An odd number of terms ends with a zero.
struct PackAcross<'a, W> {
    from: Mat<'a, W>,
    columns: usize,
    terms: usize,
    to: &'a mut [Pair],
}

impl<W: Stored<f32>> Job for PackAcross<'_, W> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let PackAcross { from: Mat { data, rs, .. }, columns, terms, to } = self;
        let pairs = terms.div_ceil(2);
        for p in 0..pairs {
            let first = &data[2 * p * rs..][..columns];
            let second = if 2 * p + 1 < terms { &data[(2 * p + 1) * rs..][..columns] } else { &[W::zeroed(); GROUP] };
            for line in (0..columns).step_by(LINE / size_of::<W>()) {
                // Rows that lie far apart are not fetched ahead otherwise.
                prefetch(data, (2 * p + FAR) * rs + line);
                prefetch(data, (2 * p + 1 + FAR) * rs + line);
            }
            for (panel, to) in to.chunks_exact_mut(pairs * PANEL).enumerate().take(columns / PANEL) {
                join(&first[panel * PANEL..], &second[panel * PANEL..], &mut to[p * PANEL..][..PANEL]);
            }
        }
    }
}

/// Rows ahead of which rows of a group of columns are fetched.
const FAR: usize = 8;
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
