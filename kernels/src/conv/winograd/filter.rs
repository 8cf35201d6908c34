//! The transform of the weights: `G g G^T` of the taps between two channels.

use super::lines::{Lane, filter_line, taps};
use super::{BLOCK, CHUNK, PITCH, Winograd, channel, pairs};
use crate::Stored;
use crate::simd::{Job, LANES, prefetch};
use crate::tile::pair_of_halves;
use std::ops::Range;

/// Transforms the weights of `rows` (result channels) and `terms` (source channels) to `out`, matrices of [`BLOCK`] x
/// [`CHUNK`] elements: stored by rows for a convolution, by columns for its input gradient.
pub(super) struct TransformFilter<'a, W, const M: usize, const U: usize, const BACKWARD: bool> {
    pub(super) w: &'a Winograd,
    pub(super) weights: &'a [W],
    pub(super) rows: Range<usize>,
    pub(super) terms: Range<usize>,
    pub(super) out: &'a mut [f32],
}

impl<W: Stored<f32>, const M: usize, const U: usize, const BACKWARD: bool> Job
    for TransformFilter<'_, W, M, U, BACKWARD>
{
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let TransformFilter { w, weights, rows, terms, out } = self;
        let n = M + 2;
        // Lanes are neighbours in memory: source channels of a convolution, result channels of its input gradient.
        let (outer, inner) = if BACKWARD { (terms, rows) } else { (rows, terms) };
        let all = if BACKWARD { w.results } else { w.sources };
        let (lines, width) = if BACKWARD { (outer.len() / U, inner.len()) } else { (outer.len(), inner.len() / U) };
        for line in 0..lines {
            for from in (0..width).step_by(LANES) {
                let at = |u: usize| {
                    let [line, from] = if BACKWARD {
                        [channel::<U>(line) + u * LANES, from]
                    } else {
                        [line, channel::<U>(from) + u * LANES]
                    };
                    ((outer.start + line) * all + inner.start + from) * 9
                };
                let first = columns::<W, FMA, M, BACKWARD>(weights, at(0), all);
                let second = if U == 1 { first } else { columns::<W, FMA, M, BACKWARD>(weights, at(1), all) };
                let pitch = if BACKWARD { BLOCK } else { CHUNK };
                let out = &mut out[line * pitch + from..][..(n * n - 1) * PITCH + LANES];
                for i in 0..n {
                    let a = filter_line::<FMA, M>([first[0][i], first[1][i], first[2][i]]);
                    let b = if U == 1 { a } else { filter_line::<FMA, M>([second[0][i], second[1][i], second[2][i]]) };
                    for j in 0..n {
                        let out = &mut out[(n * i + j) * PITCH..][..LANES];
                        out.copy_from_slice(&if U == 1 { a[j] } else { pairs(&a[j], &b[j], pair_of_halves) });
                    }
                }
            }
        }
    }
}

/// `G g` of the three columns of taps of 16 neighbouring channels, whose first weight is `at`; those of the next line are fetched,
/// which is `all` channels long.
#[inline(always)]
fn columns<W: Stored<f32>, const FMA: bool, const M: usize, const BACKWARD: bool>(
    weights: &[W],
    at: usize,
    all: usize,
) -> [[Lane; 6]; 3] {
    for next in 0..9 {
        prefetch(weights, at + all * 9 + next * LANES);
    }
    let mut g = taps::<W, FMA>(&weights[at..][..9 * LANES]);
    if BACKWARD {
        g.reverse();
    }
    [
        filter_line::<FMA, M>([g[0], g[3], g[6]]),
        filter_line::<FMA, M>([g[1], g[4], g[7]]),
        filter_line::<FMA, M>([g[2], g[5], g[8]]),
    ]
}
