//! Convolution with 3x3 taps through a transform that needs 36 products for 16 results instead of 144, or 16 for 4 instead of
//! 36: F(4x4, 3x3) and F(2x2, 3x3) of Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", arXiv 1509.09308).
//!
//! The result is cut into tiles of `m` x `m` points, `m` 4 or, for small images, 2. `B^T d B` of the `n` x `n` source elements
//! that a tile reads, `n = m + 2`, is for all channels one column of `n^2` matrices; `G g G^T` of the weights are the `n^2`
//! left operands; `A^T m A` of the products gives the tile.
//! Sources are transformed first, into `work`, in panels of tiles; a task then computes some result channels of all tiles,
//! and transforms each weight once. Sums run over the source channels in order, or over pairs of them that are 16 apart.
//!
//! With weights in bfloat16, on a processor that multiplies pairs of them, both operands are rounded to it after they are transformed
//! and sums stay in single precision. Tiles are 2x2 then, whose transform of the source adds four elements at most: that of 4x4 tiles
//! scales elements apart, so that rounding would cost too much.

mod filter;
mod input;
mod lines;
mod output;

use self::filter::TransformFilter;
use self::input::TransformInput;
use self::lines::Lane;
use self::output::TransformOutput;
use super::geometry::Geometry;
use crate::simd::{LANES, dispatch};
use crate::tile::{self, PANEL, Pair, Tile};
use crate::{DType, Pool, Shared, Stored, scratch};
use std::ops::Range;

/// Products of a tile at most.
const POINTS: usize = 36;
/// Result channels of a task.
const BLOCK: usize = 32;
/// Source channels whose weights are transformed together, or pairs of them.
const CHUNK: usize = 192;
const _: () = assert!(CHUNK.is_multiple_of(LANES), "a chunk holds whole vectors");
/// Tiles of a band at most.
const BAND: usize = 256;
/// Source channels of a task that transforms the source, or pairs of them.
const UNITS: usize = 4;
/// Elements of the matrices in `work` at most, unless those of one panel are more.
const WORK: usize = 6 << 20;
/// Widest result, in points; wider rows would not fit a task's buffers.
const WIDEST: usize = 1024;

/// Distance of the matrices of weights. Here and in what follows matrices are not a multiple of many lines apart: the same element of all
/// would be in one set of a cache, and a tile reads or writes that element of each.
const PITCH: usize = BLOCK * CHUNK + LANES;
/// Distance of the matrices of products of a panel.
const fn sums(panel: usize) -> usize {
    BLOCK * panel + LANES
}

const SCRATCH: usize = POINTS * (PITCH + BAND / PANEL * sums(PANEL));
const _: () = assert!(SCRATCH * size_of::<f32>() <= crate::SCRATCH_BYTES);

/// A convolution or its input gradient, with stride 1 and 3x3 taps.
#[derive(Clone, Copy, Debug)]
struct Winograd {
    n: usize,
    sources: usize,
    results: usize,
    /// Height and width of the source.
    source: [usize; 2],
    /// Height and width of the result.
    result: [usize; 2],
    /// Zeros above and left of the source.
    pads: [usize; 2],
    /// Height and width of a tile of the result.
    tile: usize,
    /// Whether weights are those of the convolution whose input gradient this is.
    backward: bool,
    /// Source channels of an element of a transformed operand: 2 where it is a [`Pair`], of channels that are [`LANES`] apart.
    unit: usize,
}

impl Winograd {
    /// The convolution `g`, or its input gradient, if the transform pays for its shape; with operands in pairs or not.
    fn of(g: &Geometry, backward: bool, pairs: bool) -> Option<Winograd> {
        let plain = g.groups == 1 && g.strides == [1; 3] && g.dilations == [1; 3] && g.kernel == [1, 3, 3];
        let flat = g.input[0] == 1 && g.output[0] == 1 && g.pads[0] == 0 && g.pads[1] <= 2 && g.pads[2] <= 2;
        if !plain || !flat {
            return None;
        }
        let (input, output) = ([g.input[1], g.input[2]], [g.output[1], g.output[2]]);
        let [sources, results] = if backward { [g.co, g.ci] } else { [g.ci, g.co] };
        let [source, result] = if backward { [output, input] } else { [input, output] };
        let pads = if backward { [2 - g.pads[1], 2 - g.pads[2]] } else { [g.pads[1], g.pads[2]] };
        let unit = if pairs { 2 } else { 1 };
        let regular = sources.is_multiple_of(unit * LANES) && results.is_multiple_of(LANES);
        if !regular || sources.min(results) < BLOCK || result[1] > WIDEST {
            return None;
        }
        let points = g.n * result[0] * result[1];
        // Products of the transform with all lanes filled, and some more for the transforms.
        let pays = |w: &Winograd, share: usize| share * w.points() * w.tiles().next_multiple_of(LANES) <= 36 * points;
        let of = |tile| Winograd { n: g.n, sources, results, source, result, pads, tile, backward, unit };
        let choices: &[_] = if pairs { &[(2, 5)] } else { &[(4, 6), (2, 5)] };
        choices.iter().map(|(tile, share)| (of(*tile), *share)).find(|(w, share)| pays(w, *share)).map(|(w, _)| w)
    }

    /// How weights that are stored as `W` are best convolved with on this processor, if a transform pays.
    fn best<W: Stored<f32>>(g: &Geometry, backward: bool) -> Option<Winograd> {
        let pairs = W::views(DType::Bf16) && tile::multiplies_pairs();
        Winograd::of(g, backward, true).filter(|_| pairs).or_else(|| Winograd::of(g, backward, false))
    }

    /// Tiles of a row and of an image.
    fn grid(&self) -> (usize, usize) {
        let across = self.result[1].div_ceil(self.tile);
        (across, across * self.result[0].div_ceil(self.tile))
    }

    /// Products of a tile.
    fn points(&self) -> usize {
        (self.tile + 2) * (self.tile + 2)
    }

    fn tiles(&self) -> usize {
        self.n * self.grid().1
    }

    /// Tiles of a band, and of a panel.
    fn band(&self) -> (usize, usize) {
        let tiles = self.tiles().next_multiple_of(LANES);
        if tiles <= PANEL / 2 {
            return (PANEL / 2, PANEL / 2);
        }
        let most = (WORK / (self.points() * self.sources / self.unit)).clamp(PANEL, BAND) / PANEL * PANEL;
        (tiles.div_ceil(tiles.div_ceil(most)).next_multiple_of(PANEL), PANEL)
    }

    /// Distance of the matrices of a panel in `work`.
    fn pitch(&self, panel: usize) -> usize {
        self.sources / self.unit * panel + LANES
    }

    /// Elements that `work` must have.
    fn work_len(&self) -> usize {
        let (band, panel) = self.band();
        self.points() * band / panel * self.pitch(panel)
    }
}

/// Elements of `work` for the convolution `g`, or for its input gradient, whatever its weights are stored in and whatever the
/// processor; 0 if it needs none.
pub(crate) fn work_len(g: &Geometry, backward: bool) -> usize {
    [false, true]
        .map(|pairs| Winograd::of(g, backward, pairs).map_or(0, |w| w.work_len()))
        .into_iter()
        .max()
        .unwrap_or(0)
}

/// Computes `result = bias + sum of weights * source`, or the input gradient, if the transform pays for the shape; says whether it did.
pub(crate) fn run<S: Stored<f32>, W: Stored<f32>>(
    pool: &Pool,
    (g, backward): (&Geometry, bool),
    source: &[S],
    weights: &[W],
    bias: Option<&[f32]>,
    result: &Shared<'_, f32>,
    work: &Shared<'_, f32>,
) -> bool {
    let Some(w) = Winograd::best::<W>(g, backward) else { return false };
    match (w.tile, w.unit) {
        (2, 2) => compute::<S, W, 2, 2>(pool, &w, source, weights, bias, result, work),
        (2, _) => compute::<S, W, 2, 1>(pool, &w, source, weights, bias, result, work),
        _ => compute::<S, W, 4, 1>(pool, &w, source, weights, bias, result, work),
    }
    true
}

/// Computes the result in tiles of `M` x `M` points, from transformed operands whose elements are `U` source channels each.
#[expect(unsafe_code, reason = "tasks write disjoint parts of the work memory and of the result")]
fn compute<S: Stored<f32>, W: Stored<f32>, const M: usize, const U: usize>(
    pool: &Pool,
    w: &Winograd,
    source: &[S],
    weights: &[W],
    bias: Option<&[f32]>,
    result: &Shared<'_, f32>,
    work: &Shared<'_, f32>,
) {
    let (band, panel) = w.band();
    for first in (0..w.tiles()).step_by(band) {
        let tiles = first..w.tiles().min(first + band);
        let units = w.sources / U;
        pool.run(units.div_ceil(UNITS), |task, bytes| {
            let units = task * UNITS..units.min((task + 1) * UNITS);
            dispatch(TransformInput::<S, M, U> { w, source, units, tiles: tiles.clone(), panel, work, bytes });
        });
        // SAFETY: the tasks that wrote it have ended.
        let input = unsafe { &*work.range(0, w.work_len()) };
        pool.run(w.results.div_ceil(BLOCK), |task, bytes| {
            let rows = task * BLOCK..w.results.min((task + 1) * BLOCK);
            block::<W, M, U>(w, input, weights, bias, rows, tiles.clone(), panel, result, bytes);
        });
    }
}

/// Computes the result channels `rows` of a band of tiles.
#[expect(clippy::too_many_arguments, reason = "the operands of one pass")]
fn block<W: Stored<f32>, const M: usize, const U: usize>(
    w: &Winograd,
    input: &[f32],
    weights: &[W],
    bias: Option<&[f32]>,
    rows: Range<usize>,
    tiles: Range<usize>,
    panel: usize,
    result: &Shared<'_, f32>,
    bytes: &mut [u8],
) {
    let (count, points) = (rows.len(), w.points());
    let (filter, products) = scratch::<f32>(bytes, SCRATCH).split_at_mut(POINTS * PITCH);
    let (panels, sums) = (tiles.len().div_ceil(panel), sums(panel));
    for start in (0..w.sources).step_by(CHUNK * U) {
        let terms = start..w.sources.min(start + CHUNK * U);
        let k = terms.len() / U;
        let (rows, out) = (rows.clone(), &mut *filter);
        match w.backward {
            false => dispatch(TransformFilter::<W, M, U, false> { w, weights, rows, terms, out }),
            true => dispatch(TransformFilter::<W, M, U, true> { w, weights, rows, terms, out }),
        }
        // The weights of a point stay in the nearest cache for all panels.
        for point in 0..points {
            for at in 0..panels {
                let c = &mut products[(at * points + point) * sums..][..sums];
                let tile = Tile {
                    rows: count,
                    width: panel,
                    k,
                    a: &filter[point * PITCH..][..BLOCK * CHUNK],
                    strides: if w.backward { [1, BLOCK] } else { [CHUNK, 1] },
                    b: &input[(at * points + point) * w.pitch(panel) + start / U * panel..][..k * panel],
                    pitch: panel,
                    add: start > 0,
                };
                match U {
                    1 => tile.run(c),
                    _ => tile.run_pairs(c),
                }
            }
        }
    }
    dispatch(TransformOutput::<M> { w, products, bias, rows, tiles, panel, result });
}

/// The first channel of a unit, counted from where a unit begins. Channels are numbered so in a chunk too, because it holds whole vectors.
#[inline(always)]
fn channel<const U: usize>(unit: usize) -> usize {
    if U == 1 { unit } else { unit / LANES * (2 * LANES) + unit % LANES }
}

/// Pairs of the numbers in each lane, as `pair` rounds them.
#[inline(always)]
fn pairs(first: &Lane, second: &Lane, pair: impl Fn(f32, f32) -> Pair) -> [Pair; LANES] {
    let mut out = [0.0; LANES];
    for l in 0..LANES {
        out[l] = pair(first[l], second[l]);
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conv::tests::{each, transformed, whole};
    use half::bf16;

    /// Whether operands of this convolution, or of its input gradient, are rounded to pairs on this processor.
    pub(crate) fn rounds(g: &Geometry, backward: bool) -> bool {
        Winograd::best::<bf16>(g, backward).is_some_and(|w| w.unit == 2)
    }

    #[test]
    fn pairs_leave_whole_numbers_whole() {
        let pool = Pool::new(2).unwrap();
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
        let mut seen = [0; 2];
        for (g, backward) in transformed().into_iter().flat_map(|g| [(g, false), (g, true)]) {
            let Some(w) = Winograd::of(&g, backward, true) else { continue };
            seen[usize::from(backward)] += 1;
            let planes = [g.n * g.ci * g.input_len(), g.n * g.co * g.output_len()];
            let [from, to] = if backward { [planes[1], planes[0]] } else { planes };
            let (source, weights) = (whole(from, 1), whole(g.co * g.ci * g.taps(), 2));
            let mut want = vec![0.0; to];
            each(&g, |x, w, y| {
                let [from, to] = if backward { [y, x] } else { [x, y] };
                want[to] += source[from] * weights[w];
            });
            let weights: Vec<bf16> = weights.iter().map(|v| bf16::from_f64(*v)).collect();
            let (mut result, mut work) = (vec![f32::NAN; to], vec![f32::NAN; w.work_len()]);
            let (result_of, work_of) = (&Shared::new(&mut result), &Shared::new(&mut work));
            compute::<f32, bf16, 2, 2>(&pool, &w, &single(&source), &weights, None, result_of, work_of);
            assert_eq!(result, single(&want), "{g:?}, backward: {backward}");
        }
        assert!(seen.iter().all(|seen| *seen > 3), "{seen:?}");
    }
}
