//! Matrix products of half precision of one thread: operands are rounded to bfloat16, sums are in single precision.

use crate::Stored;
use crate::product::{Dims, Mat, product};
use crate::simd::{Job, Real, TILE, dispatch};
use crate::tile::{PANEL, Pair, Tile, pair};

/// Pairs of terms that are packed at once, at most.
const PAIRS: usize = 256;
/// Pairs between rows of the packed left operand beyond those of a row; rows a large power of two apart would share cache sets.
const GAP: usize = 16;

/// Pairs of terms in a chunk of a sum of `k`. Chunks are equal, but for the last.
const fn chunk(k: usize) -> usize {
    let pairs = k.div_ceil(2);
    if pairs <= PAIRS { pairs } else { pairs.div_ceil(pairs.div_ceil(PAIRS)) }
}

/// Numbers of scratch memory that [`sums`] needs.
pub(crate) const fn scratch_len(dims: Dims) -> usize {
    packs_len(dims) + dims.m * dims.n.next_multiple_of(PANEL)
}

/// Numbers of scratch memory that packed operands take: all rows of the left one, and a panel of the right one.
const fn packs_len(dims: Dims) -> usize {
    dims.m * (chunk(dims.k) + GAP) + chunk(dims.k) * PANEL
}

/// `a @ b`, a row after the other: `row` is called with the number of each and the sums of it.
pub(crate) fn sums<A: Stored<f32>, B: Stored<f32>>(
    dims: Dims,
    a: Mat<'_, A>,
    b: Mat<'_, B>,
    scratch: &mut [f32],
    mut row: impl FnMut(usize, &[f32]),
) {
    let width = dims.n.next_multiple_of(PANEL);
    let (packs, sums) = scratch.split_at_mut(packs_len(dims));
    let sums = &mut sums[..dims.m * width];
    into(dims, a, b, false, sums, width, packs);
    for (i, sums) in sums.chunks_exact(width.max(1)).enumerate() {
        row(i, &sums[..dims.n]);
    }
}

/// `c = a @ b`, or `c += a @ b` if `add`. Row `i` of `c` begins at `c[i * pitch]` and has room for a whole number of panels.
fn into<A: Stored<f32>, B: Stored<f32>>(
    dims: Dims,
    a: Mat<'_, A>,
    b: Mat<'_, B>,
    add: bool,
    c: &mut [f32],
    pitch: usize,
    scratch: &mut [f32],
) {
    let Dims { m, n, k } = dims;
    let (chunk, line) = (chunk(k), chunk(k) + GAP);
    let (left, right) = scratch.split_at_mut(m * line);
    if k == 0 && !add {
        c.fill(0.0);
    }
    for from in (0..k).step_by(2 * chunk.max(1)) {
        let terms = (2 * chunk).min(k - from);
        let pairs = terms.div_ceil(2);
        dispatch(Pack { from: a.from(0, from), lines: m, terms, to: &mut *left, line, pair: 1 });
        for column in (0..n).step_by(PANEL) {
            let Mat { data, rs, cs } = b.from(from, column);
            let lines = PANEL.min(n - column);
            let width = if lines * 2 <= PANEL { PANEL / 2 } else { PANEL };
            let to = &mut right[..pairs * width];
            if lines < width {
                to.fill(0.0);
            }
            dispatch(Pack { from: Mat { data, rs: cs, cs: rs }, lines, terms, to: &mut *to, line: 1, pair: width });
            let tile = Tile {
                rows: m,
                width,
                k: pairs,
                a: &*left,
                strides: [line, 1],
                b: &*to,
                c: &mut c[column..],
                pitch,
                add: add || from > 0,
            };
            tile.run_pairs();
        }
    }
}

/// Numbers for which a product is computed in the precision that a launch asks for.
pub(crate) trait Multiply: Real {
    /// `c = alpha * a @ b + beta * c`, row `i` of `c` begins at `c[i * pitch]`. With `half`, scratch memory of
    /// [`scratch_len`] numbers, in half precision if there is such a form; the second scale is then 0 or 1.
    fn multiply(
        _half: Option<&mut [Self]>,
        dims: Dims,
        [alpha, beta]: [Self; 2],
        a: Mat<'_, Self>,
        b: Mat<'_, Self>,
        c: &mut [Self],
        pitch: usize,
    ) {
        product(dims, alpha, a, b, beta, c, [pitch, 1]);
    }
}

impl Multiply for f64 {}

impl Multiply for f32 {
    fn multiply(
        half: Option<&mut [f32]>,
        dims: Dims,
        [alpha, beta]: [f32; 2],
        a: Mat<'_, f32>,
        b: Mat<'_, f32>,
        c: &mut [f32],
        pitch: usize,
    ) {
        match half {
            None => product(dims, alpha, a, b, beta, c, [pitch, 1]),
            Some(scratch) if alpha == 1.0 && dims.n.is_multiple_of(PANEL) => {
                into(dims, a, b, beta == 1.0, c, pitch, scratch);
            }
            Some(scratch) => {
                sums(dims, a, b, scratch, |i, sums| put(sums, [alpha, beta], &mut c[i * pitch..][..sums.len()]));
            }
        }
    }
}

/// `out = alpha * sums + beta * out`; with `beta` zero `out` is not read.
pub(crate) fn put(sums: &[f32], [alpha, beta]: [f32; 2], out: &mut [f32]) {
    dispatch(Put { sums, alpha, beta, out });
}

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
                    round(&data[i * rs..][..terms], bytemuck::cast_slice_mut(&mut to[..pairs]));
                }
            }
            // Terms are neighbours before and lines after.
            (1, ..) => {
                let mut rounded = [[0.0; PAIRS]; TILE];
                for from in (0..lines).step_by(TILE) {
                    let count = TILE.min(lines - from);
                    for (l, rounded) in rounded[..count].iter_mut().enumerate() {
                        round(&data[(from + l) * rs..][..terms], bytemuck::cast_slice_mut(&mut rounded[..pairs]));
                    }
                    turn::<FMA, _>(&rounded, count, pairs, &mut to[from..], step);
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
                let mut joined = [[0.0; LINES]; TILE];
                for from in (0..lines).step_by(LINES) {
                    let count = LINES.min(lines - from);
                    for p in (0..pairs).step_by(TILE) {
                        let height = TILE.min(pairs - p);
                        for (q, joined) in joined[..height].iter_mut().enumerate() {
                            let joined = &mut joined[..count];
                            let first = &data[2 * (p + q) * cs + from..];
                            match p + q < whole {
                                true => join(first, &data[(2 * (p + q) + 1) * cs + from..], joined),
                                false => join(first, &[W::zeroed(); LINES], joined),
                            }
                        }
                        turn::<FMA, _>(&joined, height, count, &mut to[from * line + p..], line);
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

/// `to[j * pitch + i] = from[i][j]` for `i < rows`, `j < cols`.
#[inline(always)]
fn turn<const FMA: bool, const N: usize>(
    from: &[[Pair; N]; TILE],
    rows: usize,
    cols: usize,
    to: &mut [Pair],
    pitch: usize,
) {
    let whole = if rows == TILE { cols / TILE * TILE } else { 0 };
    for j in (0..whole).step_by(TILE) {
        let mut tile = [[0.0; TILE]; TILE];
        for (tile, from) in tile.iter_mut().zip(from) {
            tile.copy_from_slice(&from[j..][..TILE]);
        }
        for (k, run) in f32::turn::<FMA>(tile).iter().enumerate() {
            to[(j + k) * pitch..][..TILE].copy_from_slice(run);
        }
    }
    for j in whole..cols {
        for (i, from) in from[..rows].iter().enumerate() {
            to[j * pitch + i] = from[j];
        }
    }
}
