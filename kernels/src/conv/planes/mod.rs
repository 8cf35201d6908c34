//! Convolution with weights in bfloat16 on processors that multiply matrices ([`tile::multiplies_matrices`]): the products of each tap's
//! weights with the source, moved by that tap, are added.
//!
//! The source is rounded, first, to planes of pairs of channels in `work`, where the images lie below each other with their padding; with
//! strides there is a plane for each remainder of what taps add. Neighbouring points of a plane, wherever a tap moves them, are then a row
//! of a right operand. Sums of the points that a padded row has beyond a row of the result are computed, too, and go nowhere. Sums run
//! over the taps of 32 source channels, then over the channels.

mod source;
mod weights;

use self::source::PackSource;
use self::weights::PackWeights;
use super::geometry::{self, Axis, Geometry};
use crate::simd::{Job, dispatch};
use crate::tile::{self, SIDE, Shifted};
use crate::{Pool, SCRATCH_BYTES, Shared, Stored, scratch_parts};
use half::bf16;
use std::ops::Range;

/// Result channels of a task.
const BLOCK: usize = 2 * SIDE;
/// Taps at most.
const TAPS: usize = 49;
/// Pairs of weights that are packed together for each result channel.
const PACKED: usize = 2304;
const _: () = assert!(PACKED >= SIDE * TAPS, "one step of all taps fits");
/// Points of a band at most, with those that padded rows have beyond the result.
const POINTS: usize = 8192;
/// Pairs of source channels that a task rounds.
const UNITS: usize = 4;
/// Elements of the planes in `work` at most, unless those of one row of the result are more.
const WORK: usize = 4 << 20;

/// A convolution, or a class of the elements of its input gradient.
#[derive(Clone, Copy, Debug)]
struct Planes {
    n: usize,
    sources: usize,
    results: usize,
    /// Height and width.
    axes: [Axis; 2],
    /// Taps of the weights, of which some contribute, and the place of each tap that does.
    taps: usize,
    places: [usize; TAPS],
    /// Whether weights are those of the convolution whose input gradient this is.
    backward: bool,
}

impl Planes {
    /// The convolution `g`, or the classes of its input gradient; none if one of them has not the form.
    fn of(g: &Geometry, backward: bool) -> impl Iterator<Item = Planes> {
        let classes = if backward { g.phases() } else { 1 };
        let formed = (0..classes).all(|class| Planes::class(g, backward, class).is_some());
        (0..if formed { classes } else { 0 }).filter_map(move |class| Planes::class(g, backward, class))
    }

    fn class(g: &Geometry, backward: bool, class: usize) -> Option<Planes> {
        let flat = g.input[0] == 1 && g.output[0] == 1 && g.kernel[0] == 1 && g.pads[0] == 0 && g.strides[0] == 1;
        if !flat || g.groups != 1 || g.taps() == 1 || g.taps() > TAPS {
            return None;
        }
        let [sources, results] = if backward { [g.co, g.ci] } else { [g.ci, g.co] };
        let axes = if backward { g.backward(class) } else { g.forward() };
        let mut places = [0; TAPS];
        let taps = geometry::taps(&axes);
        places[..taps].iter_mut().enumerate().for_each(|(t, place)| *place = geometry::tap_index(&axes, t));
        let planes = Planes { n: g.n, sources, results, axes: [axes[1], axes[2]], taps: g.taps(), places, backward };
        // Without taps there is nothing to add up.
        (taps > 0 && planes.line() <= POINTS && g.n * sources * results * geometry::points(&axes) > 0).then_some(planes)
    }

    /// Pairs of source channels; those beyond the last are zero.
    fn pairs(&self) -> usize {
        self.sources.div_ceil(2 * SIDE) * SIDE
    }

    /// Places in the weights of the taps that contribute.
    fn places(&self) -> &[usize] {
        &self.places[..self.axes[0].taps * self.axes[1].taps]
    }

    /// Rows and points of a plane beyond a point that taps read.
    fn reach(&self) -> [usize; 2] {
        self.axes.map(|a| a.reach() / a.step())
    }

    /// Planes of a pair, down and across: one for each remainder.
    fn remainders(&self) -> [usize; 2] {
        self.axes.map(|a| a.step().min(a.reach() + 1))
    }

    /// Points of a padded row.
    fn line(&self) -> usize {
        self.axes[1].points + self.reach()[1]
    }

    /// Rows of an image with its padding.
    fn rows(&self) -> usize {
        self.axes[0].points + self.reach()[0]
    }

    /// Rows of the images, of which a band makes so many at most.
    fn band(&self) -> usize {
        let all = self.n * self.rows() - self.reach()[0];
        let [down, across] = self.remainders();
        let most = (WORK / (self.pairs() * down * across) / self.line()).saturating_sub(self.reach()[0] + 1);
        let most = most.min(POINTS / self.line()).clamp(1, all);
        all.div_ceil(all.div_ceil(most))
    }

    /// Elements of a plane.
    fn plane(&self) -> usize {
        (self.band() + self.reach()[0]) * self.line() + self.reach()[1] + Shifted::COLUMNS
    }

    /// Distance of the planes of pairs.
    fn pitch(&self) -> usize {
        let [down, across] = self.remainders();
        odd_lines(down * across * self.plane())
    }

    fn work_len(&self) -> usize {
        self.pairs() * self.pitch()
    }

    /// Where each tap reads, counted from the point of the result.
    fn offsets(&self) -> [usize; TAPS] {
        let mut offsets = [0; TAPS];
        let [height, width] = &self.axes;
        for (t, offset) in offsets.iter_mut().enumerate().take(self.places().len()) {
            let [down, across] = [height.shift(t / width.taps), width.shift(t % width.taps)];
            let plane = down % height.step() * self.remainders()[1] + across % width.step();
            *offset = plane * self.plane() + down / height.step() * self.line() + across / width.step();
        }
        offsets
    }
}

/// A distance of lines of numbers that is an odd number of cache lines, so that the same number of each is in another set of a cache.
const fn odd_lines(numbers: usize) -> usize {
    const LINE: usize = 16;
    (numbers.div_ceil(LINE) | 1) * LINE
}

/// Numbers of scratch memory: packed weights, sums, and pairs of weights that are to be turned.
const PARTS: [usize; 3] = [BLOCK * PACKED, BLOCK * odd_lines(POINTS + Shifted::COLUMNS), BLOCK * SIDE * TAPS];
const _: () = assert!((PARTS[0] + PARTS[1] + PARTS[2]) * size_of::<f32>() <= SCRATCH_BYTES);

/// Elements of `work` for the convolution `g`, or for its input gradient; 0 if it has not this form.
pub(crate) fn work_len(g: &Geometry, backward: bool) -> usize {
    Planes::of(g, backward).map(|p| p.work_len()).max().unwrap_or(0)
}

/// Computes `result = bias + sum of weights * source`, or the input gradient, if the processor and the shape are made for it; says
/// whether it did.
pub(crate) fn run<S: Stored<f32>>(
    pool: &Pool,
    (g, backward): (&Geometry, bool),
    source: &[S],
    weights: &[bf16],
    bias: Option<&[f32]>,
    result: &Shared<'_, f32>,
    work: &Shared<'_, f32>,
) -> bool {
    if !tile::multiplies_matrices() {
        return false;
    }
    let mut any = false;
    for p in Planes::of(g, backward) {
        compute(pool, &p, source, bytemuck::cast_slice(weights), bias, result, work);
        any = true;
    }
    any
}

#[expect(unsafe_code, reason = "tasks write disjoint parts of the work memory and of the result")]
fn compute<S: Stored<f32>>(
    pool: &Pool,
    p: &Planes,
    source: &[S],
    weights: &[u16],
    bias: Option<&[f32]>,
    result: &Shared<'_, f32>,
    work: &Shared<'_, f32>,
) {
    let (all, band) = (p.n * p.rows() - p.reach()[0], p.band());
    let (offsets, taps) = (p.offsets(), p.places().len());
    let chunk = PACKED / taps / SIDE * SIDE;
    for first in (0..all).step_by(band) {
        let rows = first..all.min(first + band);
        let pairs = p.pairs();
        pool.run(pairs.div_ceil(UNITS), |task, _| {
            let pairs = task * UNITS..pairs.min((task + 1) * UNITS);
            dispatch(PackSource { p, source, pairs, rows: rows.start..rows.end + p.reach()[0], work });
        });
        // SAFETY: the tasks that wrote it have ended.
        let planes = unsafe { &*work.range(0, p.work_len()) };
        pool.run(p.results.div_ceil(BLOCK), |task, bytes| {
            let _held = tile::hold();
            let channels = task * BLOCK..p.results.min((task + 1) * BLOCK);
            let height = channels.len().next_multiple_of(SIDE);
            let points = rows.len() * p.line();
            let columns = points.next_multiple_of(Shifted::COLUMNS);
            let pitch = odd_lines(columns);
            let [packed, sums, turned] = scratch_parts::<f32, 3>(bytes, PARTS);
            for start in (0..pairs).step_by(chunk) {
                let count = chunk.min(pairs - start);
                let steps = start / SIDE..(start + count) / SIDE;
                let (to, turned) = (&mut *packed, &mut *turned);
                dispatch(PackWeights { p, weights, channels: channels.clone(), height, steps, to, turned });
                let planes = &planes[start * p.pitch()..];
                let (plane, offsets, add) = (p.pitch(), &offsets[..taps], start > 0);
                let block = Shifted { a: packed, rows: height, count, planes, plane, offsets, columns, pitch, add };
                // The weights of the next chunk, or of the next task's first, which is this thread's as a rule.
                let (first, next) = match start + chunk {
                    next if next < pairs => (channels.start, next),
                    _ => (channels.end, 0),
                };
                let steps = next / SIDE..(next + chunk).min(pairs) / SIDE;
                block.run(sums, &mut weights::ahead(p, weights, first, steps));
            }
            dispatch(Put { p, sums, pitch, channels, rows: rows.clone(), bias, result });
        });
    }
}

/// Writes the sums of some channels, for a band of rows.
struct Put<'a> {
    p: &'a Planes,
    sums: &'a [f32],
    pitch: usize,
    channels: Range<usize>,
    rows: Range<usize>,
    bias: Option<&'a [f32]>,
    result: &'a Shared<'a, f32>,
}

impl Job for Put<'_> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint channels")]
    fn run<const FMA: bool>(self) {
        let Put { p, sums, pitch, channels, rows, bias, result } = self;
        let [height, width] = &p.axes;
        for (sums, r) in sums.chunks_exact(pitch).zip(channels) {
            let bias = bias.map_or(0.0, |bias| bias[r]);
            for (sums, row) in sums.chunks_exact(p.line()).zip(rows.clone()) {
                let (sums, image, y) = (&sums[..width.points], row / p.rows(), row % p.rows());
                if y >= height.points {
                    continue;
                }
                let row = ((image * p.results + r) * height.whole + height.target(y)) * width.whole + width.target(0);
                if width.apart() == 1 {
                    // SAFETY: each channel belongs to one task.
                    let result = unsafe { result.range(row, sums.len()) };
                    result.iter_mut().zip(sums).for_each(|(result, sum)| *result = sum + bias);
                    continue;
                }
                for (x, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    let result = unsafe { result.range(row + x * width.apart(), 1) };
                    result[0] = sum + bias;
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conv::tests::{each, shapes, square, transformed, whole};

    /// Whether this convolution, or its input gradient, is computed so on this processor, with weights in bfloat16.
    pub(crate) fn runs(g: &Geometry, backward: bool) -> bool {
        Planes::of(g, backward).next().is_some() && tile::multiplies_matrices()
    }

    #[test]
    fn whole_numbers_stay_whole() {
        let pool = Pool::new(2).unwrap();
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
        let (mut seen, mut bands, mut strided) = ([0; 2], 0, 0);
        // More than one band, of more than one image.
        let wide = Geometry { input: [1, 40, 900], output: [1, 40, 900], ..square(2, 120, 8, 1, 3, 1) };
        let all = shapes().into_iter().chain(transformed()).chain([wide]);
        for (g, backward) in all.flat_map(|g| [(g, false), (g, true)]) {
            if work_len(&g, backward) == 0 {
                continue;
            }
            seen[usize::from(backward)] += 1;
            let lens = [g.n * g.ci * g.input_len(), g.n * g.co * g.output_len()];
            let [from, to] = if backward { [lens[1], lens[0]] } else { lens };
            let (source, weights) = (whole(from, 1), whole(g.co * g.ci * g.taps(), 2));
            let mut want = vec![0.0; to];
            each(&g, |x, w, y| {
                let [from, to] = if backward { [y, x] } else { [x, y] };
                want[to] += source[from] * weights[w];
            });
            let weights: Vec<u16> = weights.iter().map(|v| bf16::from_f64(*v).to_bits()).collect();
            let (mut result, mut work) = (vec![f32::NAN; to], vec![f32::NAN; work_len(&g, backward)]);
            let (result_of, work_of) = (&Shared::new(&mut result), &Shared::new(&mut work));
            for p in Planes::of(&g, backward) {
                bands = bands.max((p.n * p.rows() - p.reach()[0]).div_ceil(p.band()));
                strided += usize::from(p.axes[1].step() > 1 || p.axes[1].apart() > 1);
                compute(&pool, &p, &single(&source), &weights, None, result_of, work_of);
            }
            assert_eq!(result, single(&want), "{g:?}, backward: {backward}");
        }
        assert!(seen.iter().all(|seen| *seen > 10) && bands > 1 && strided > 10, "{seen:?}, {bands}, {strided}");
    }
}
