//! Convolution with 3x3 taps through a transform that needs 36 products for 16 results instead of 144, or 16 for 4 instead of
//! 36: F(4x4, 3x3) and F(2x2, 3x3) of Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", arXiv 1509.09308).
//!
//! The result is cut into tiles of `m` x `m` points, `m` 4 or, for small images, 2. `B^T d B` of the `n` x `n` source elements
//! that a tile reads, `n = m + 2`, is for all channels one column of `n^2` matrices; `G g G^T` of the weights are the `n^2`
//! left operands; `A^T m A` of the products gives the tile.
//! Sources are transformed first, into `work`, in panels of tiles; a task then computes some result channels of all tiles,
//! and transforms each weight once. Sums run over the source channels in order.

use super::geometry::Geometry;
use super::transform::{axpy, gather_line, spread_line, taps, weigh_line};
use crate::simd::{Job, LANES, dispatch, prefetch};
use crate::tile::{PANEL, Tile};
use crate::{Pool, Shared, Stored, scratch};
use std::ops::Range;

/// Products of a tile at most.
const POINTS: usize = 36;
/// Result channels of a task.
const BLOCK: usize = 32;
/// Source channels whose weights are transformed together.
const CHUNK: usize = 192;
/// Tiles of a band at most.
const BAND: usize = 256;
/// Source channels of a task that transforms the source.
const CHANNELS: usize = 4;
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
pub(crate) struct Winograd {
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
}

impl Winograd {
    /// The convolution `g`, or its input gradient, if the transform pays for its shape.
    pub(crate) fn of(g: &Geometry, backward: bool) -> Option<Winograd> {
        let plain = g.groups == 1 && g.strides == [1; 3] && g.dilations == [1; 3] && g.kernel == [1, 3, 3];
        let flat = g.input[0] == 1 && g.output[0] == 1 && g.pads[0] == 0 && g.pads[1] <= 2 && g.pads[2] <= 2;
        if !plain || !flat {
            return None;
        }
        let (input, output) = ([g.input[1], g.input[2]], [g.output[1], g.output[2]]);
        let w = if backward {
            let pads = [2 - g.pads[1], 2 - g.pads[2]];
            Winograd { n: g.n, sources: g.co, results: g.ci, source: output, result: input, pads, tile: 4, backward }
        } else {
            let pads = [g.pads[1], g.pads[2]];
            Winograd { n: g.n, sources: g.ci, results: g.co, source: input, result: output, pads, tile: 4, backward }
        };
        let regular = [w.sources, w.results].iter().all(|c| *c >= BLOCK && c.is_multiple_of(LANES));
        let points = w.n * w.result[0] * w.result[1];
        // Products of the transform with all lanes filled, and some more for the transforms.
        let pays = |w: &Winograd, share: usize| share * w.points() * w.tiles().next_multiple_of(LANES) <= 36 * points;
        let small = Winograd { tile: 2, ..w };
        let chosen = if pays(&w, 6) { Some(w) } else { Some(small).filter(|s| pays(s, 5)) };
        chosen.filter(|w| regular && w.result[1] <= WIDEST)
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
        let most = (WORK / (self.points() * self.sources)).clamp(PANEL, BAND) / PANEL * PANEL;
        (tiles.div_ceil(tiles.div_ceil(most)).next_multiple_of(PANEL), PANEL)
    }

    /// Distance of the matrices of a panel in `work`.
    fn pitch(&self, panel: usize) -> usize {
        self.sources * panel + LANES
    }

    /// Elements that `work` must have.
    pub(crate) fn work_len(&self) -> usize {
        let (band, panel) = self.band();
        self.points() * band / panel * self.pitch(panel)
    }
}

/// Elements of `work` for the convolution `g`, or for its input gradient; 0 if it needs none.
pub(crate) fn work_len(g: &Geometry, backward: bool) -> usize {
    Winograd::of(g, backward).map_or(0, |w| w.work_len())
}

/// Computes `result = bias + sum of weights * source`.
#[expect(unsafe_code, reason = "tasks write disjoint parts of the work memory and of the result")]
pub(crate) fn run<W: Stored<f32>>(
    pool: &Pool,
    w: &Winograd,
    source: &[f32],
    weights: &[W],
    bias: Option<&[f32]>,
    result: &Shared<'_, f32>,
    work: &Shared<'_, f32>,
) {
    let (band, panel) = w.band();
    for first in (0..w.tiles()).step_by(band) {
        let tiles = first..w.tiles().min(first + band);
        pool.run(w.sources.div_ceil(CHANNELS), |task, bytes| {
            let channels = task * CHANNELS..w.sources.min((task + 1) * CHANNELS);
            let tiles = tiles.clone();
            match w.tile {
                4 => dispatch(Spread::<4> { w, source, channels, tiles, panel, work, bytes }),
                _ => dispatch(Spread::<2> { w, source, channels, tiles, panel, work, bytes }),
            }
        });
        // SAFETY: the tasks that wrote it have ended.
        let spread = unsafe { &*work.range(0, w.work_len()) };
        pool.run(w.results.div_ceil(BLOCK), |task, bytes| {
            let rows = task * BLOCK..w.results.min((task + 1) * BLOCK);
            let tiles = tiles.clone();
            match w.tile {
                4 => block::<W, 4>(w, spread, weights, bias, rows, tiles, panel, result, bytes),
                _ => block::<W, 2>(w, spread, weights, bias, rows, tiles, panel, result, bytes),
            }
        });
    }
}

/// Transforms the source of some channels, for a band of tiles.
struct Spread<'a, const M: usize> {
    w: &'a Winograd,
    source: &'a [f32],
    channels: Range<usize>,
    tiles: Range<usize>,
    panel: usize,
    work: &'a Shared<'a, f32>,
    bytes: &'a mut [u8],
}

/// Elements of a row of the source with its padding, at most.
const STRIP: usize = WIDEST + 2 * LANES;

impl<const M: usize> Job for Spread<'_, M> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint channels")]
    fn run<const FMA: bool>(self) {
        let Spread { w, source, channels, tiles, panel, work, bytes } = self;
        let (across, image_tiles) = w.grid();
        let [height, width] = w.source;
        let strips = scratch::<f32>(bytes, 12 * STRIP);
        let (rows, turned) = strips.split_at_mut(6 * STRIP);
        let n = M + 2;
        let used = (M * across + 2).next_multiple_of(LANES);
        let (left, inner) = (w.pads[1], width.min(M * across + 2 - w.pads[1]));
        let mut held = usize::MAX;
        for group in (0..tiles.len()).step_by(LANES) {
            for channel in channels.clone() {
                let mut lanes = [[0.0_f32; LANES]; POINTS];
                let mut lane = 0;
                let end = tiles.end.min(tiles.start + group + LANES);
                let mut tile = tiles.start + group;
                while tile < end {
                    let (image, inside) = (tile / image_tiles, tile % image_tiles);
                    let (down, from) = (inside / across, inside % across);
                    let count = (across - from).min(end - tile);
                    let key = (channel * w.n + image) * image_tiles + down;
                    if key != held {
                        held = key;
                        let plane = &source[(image * w.sources + channel) * height * width..][..height * width];
                        for (i, row) in rows.chunks_exact_mut(STRIP).enumerate().take(n) {
                            let row = &mut row[..used];
                            row.fill(0.0);
                            let at = (M * down + i).wrapping_sub(w.pads[0]);
                            if at < height {
                                row[left..left + inner].copy_from_slice(&plane[at * width..][..inner]);
                            }
                        }
                        for at in (0..used).step_by(LANES) {
                            let mut d = [[0.0; LANES]; 6];
                            for (i, d) in d.iter_mut().enumerate().take(n) {
                                d.copy_from_slice(&rows[i * STRIP + at..][..LANES]);
                            }
                            for (i, t) in spread_line::<FMA, M>(d).iter().enumerate().take(n) {
                                turned[i * STRIP + at..][..LANES].copy_from_slice(t);
                            }
                        }
                    }
                    for i in 0..n {
                        let row = &turned[i * STRIP + M * from..];
                        let lanes = &mut lanes[n * i..n * i + n];
                        match count {
                            LANES => part::<LANES, M>(row, lanes, lane),
                            8 => part::<8, M>(row, lanes, lane),
                            4 => part::<4, M>(row, lanes, lane),
                            _ => (0..count).for_each(|t| part::<1, M>(&row[M * t..], lanes, lane + t)),
                        }
                    }
                    lane += count;
                    tile += count;
                }
                let start = group / panel * n * n * w.pitch(panel) + channel * panel + group % panel;
                for i in 0..n {
                    let mut d = [[0.0; LANES]; 6];
                    d[..n].copy_from_slice(&lanes[n * i..n * i + n]);
                    for (j, t) in spread_line::<FMA, M>(d).iter().enumerate().take(n) {
                        let at = start + (n * i + j) * w.pitch(panel);
                        // SAFETY: each channel belongs to one task.
                        unsafe { work.range(at, LANES) }.copy_from_slice(t);
                    }
                }
            }
        }
    }
}

/// Takes the elements that each of `N` neighbouring tiles reads of a row.
#[inline(always)]
fn part<const N: usize, const M: usize>(row: &[f32], lanes: &mut [[f32; LANES]], lane: usize) {
    let row = &row[..M * N + 2];
    for (j, lanes) in lanes.iter_mut().enumerate().take(M + 2) {
        let lanes = &mut lanes[lane..][..N];
        for t in 0..N {
            lanes[t] = row[M * t + j];
        }
    }
}

/// Transforms the weights of `rows` (result channels) and `terms` (source channels) to `out`, matrices of [`BLOCK`] x
/// [`CHUNK`] elements: stored by rows for a convolution, by columns for its input gradient.
struct Weigh<'a, W, const M: usize> {
    w: &'a Winograd,
    weights: &'a [W],
    rows: Range<usize>,
    terms: Range<usize>,
    out: &'a mut [f32],
}

impl<W: Stored<f32>, const M: usize> Job for Weigh<'_, W, M> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Weigh { w, weights, rows, terms, out } = self;
        // Lanes are neighbours in memory: source channels of a convolution, result channels of its input gradient.
        let (outer, inner, pitch) = if w.backward { (terms, rows, BLOCK) } else { (rows, terms, CHUNK) };
        let inner_all = if w.backward { w.results } else { w.sources };
        for (o, channel) in outer.enumerate() {
            for from in (0..inner.len()).step_by(LANES) {
                let at = (channel * inner_all + inner.start + from) * 9;
                for line in 0..9 {
                    prefetch(weights, at + inner_all * 9 + line * LANES);
                }
                let mut g = taps::<W, FMA>(&weights[at..][..9 * LANES]);
                if w.backward {
                    g.reverse();
                }
                let left = weigh_line::<FMA, M>([g[0], g[3], g[6]]);
                let middle = weigh_line::<FMA, M>([g[1], g[4], g[7]]);
                let right = weigh_line::<FMA, M>([g[2], g[5], g[8]]);
                let out = &mut out[o * pitch + from..][..((M + 2) * (M + 2) - 1) * PITCH + LANES];
                for i in 0..M + 2 {
                    let row = weigh_line::<FMA, M>([left[i], middle[i], right[i]]);
                    for j in 0..M + 2 {
                        out[((M + 2) * i + j) * PITCH..][..LANES].copy_from_slice(&row[j]);
                    }
                }
            }
        }
    }
}

/// Computes the result channels `rows` of a band of tiles.
#[expect(clippy::too_many_arguments, reason = "the operands of one pass")]
fn block<W: Stored<f32>, const M: usize>(
    w: &Winograd,
    spread: &[f32],
    weights: &[W],
    bias: Option<&[f32]>,
    rows: Range<usize>,
    tiles: Range<usize>,
    panel: usize,
    result: &Shared<'_, f32>,
    bytes: &mut [u8],
) {
    let (count, points) = (rows.len(), w.points());
    let (weighed, products) = scratch::<f32>(bytes, SCRATCH).split_at_mut(POINTS * PITCH);
    let (panels, sums) = (tiles.len().div_ceil(panel), sums(panel));
    for start in (0..w.sources).step_by(CHUNK) {
        let terms = start..w.sources.min(start + CHUNK);
        let k = terms.len();
        dispatch(Weigh::<W, M> { w, weights, rows: rows.clone(), terms, out: &mut *weighed });
        for (at, products) in products.chunks_exact_mut(points * sums).enumerate().take(panels) {
            for (point, c) in products.chunks_exact_mut(sums).enumerate() {
                Tile {
                    rows: count,
                    width: panel,
                    k,
                    a: &weighed[point * PITCH..][..BLOCK * CHUNK],
                    strides: if w.backward { [1, BLOCK] } else { [CHUNK, 1] },
                    b: &spread[(at * points + point) * w.pitch(panel) + start * panel..][..k * panel],
                    c,
                    pitch: panel,
                    add: start > 0,
                }
                .run();
            }
        }
    }
    dispatch(Gather::<M> { w, products, bias, rows, tiles, panel, result });
}

/// Transforms the products back and writes the tiles.
struct Gather<'a, const M: usize> {
    w: &'a Winograd,
    products: &'a [f32],
    bias: Option<&'a [f32]>,
    rows: Range<usize>,
    tiles: Range<usize>,
    panel: usize,
    result: &'a Shared<'a, f32>,
}

impl<const M: usize> Job for Gather<'_, M> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint channels")]
    fn run<const FMA: bool>(self) {
        let Gather { w, products, bias, rows, tiles, panel, result } = self;
        let (across, image_tiles) = w.grid();
        let [height, width] = w.result;
        let (n, sums) = (M + 2, sums(panel));
        for (r, channel) in rows.enumerate() {
            let bias = [bias.map_or(0.0, |b| b[channel]); LANES];
            for group in (0..tiles.len()).step_by(LANES) {
                let start = group / panel * n * n * sums + r * panel + group % panel;
                let product = |point: usize| {
                    let mut lanes = [0.0; LANES];
                    lanes.copy_from_slice(&products[start + point * sums..][..LANES]);
                    lanes
                };
                let mut half = [[[0.0; LANES]; 4]; 6];
                for (j, half) in half.iter_mut().enumerate().take(n) {
                    let column = |i| if i < n { product(n * i + j) } else { [0.0; LANES] };
                    *half = gather_line::<FMA, M>(std::array::from_fn(column));
                }
                // Rows of the 16 tiles side by side.
                let mut points = [[[0.0; M]; LANES]; 4];
                for (i, points) in points.iter_mut().enumerate().take(M) {
                    let line = gather_line::<FMA, M>(std::array::from_fn(|j| half[j][i]));
                    let line = line.map(|lanes| axpy::<FMA>(1.0, &lanes, &bias));
                    for (l, point) in points.iter_mut().enumerate() {
                        *point = std::array::from_fn(|c| line[c][l]);
                    }
                }
                let end = tiles.end.min(tiles.start + group + LANES);
                let mut tile = tiles.start + group;
                let mut lane = 0;
                while tile < end {
                    let (image, inside) = (tile / image_tiles, tile % image_tiles);
                    let (down, from) = (inside / across, inside % across);
                    let count = (across - from).min(end - tile);
                    let plane = (image * w.results + channel) * height * width;
                    let len = (M * count).min(width - M * from);
                    for (i, points) in points.iter().enumerate().take(M.min(height - M * down)) {
                        // SAFETY: each channel belongs to one task.
                        let out = unsafe { result.range(plane + (M * down + i) * width + M * from, len) };
                        out.copy_from_slice(&points[lane..lane + count].as_flattened()[..len]);
                    }
                    lane += count;
                    tile += count;
                }
            }
        }
    }
}
