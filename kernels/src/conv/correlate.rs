//! The sum over channels and taps that a convolution and its input gradient have in common.
//!
//! The result is cut into blocks of points and channels. A block is computed by one task as a matrix product of the
//! weights with columns of the source that the task gathers, a chunk of terms at a time, into its scratch memory. With weights in
//! bfloat16, on a processor that multiplies pairs of them, the columns are rounded to it where sums are long; sums stay in single precision.

use super::geometry::{self, Axis};
use crate::pairs::{GROUP, Panels, SUMS, scratch_len};
use crate::product::{Dims, Mat, product, product_shared};
use crate::simd::{Job, Real, dispatch};
use crate::tile::multiplies_pairs;
use crate::{DType, Pool, Shared, Stored, scratch};
use half::bf16;
use std::ops::Range;

/// Terms (channels times taps) of a chunk.
const TERMS: usize = 512;
/// Points of a block.
const POINTS: usize = 256;
/// Result channels of a block at most, where weights or results pass through scratch memory.
const CHANNELS: usize = 384;
/// Blocks that a large launch is cut into at least.
const TASKS: usize = 8;
/// Terms from which on products of pairs pay for rounding the operands. The few channels of a model's input, like a latent's, have fewer.
const PAIRED: usize = 128;
/// Result channels of a group up to which the sums are computed directly.
const DIRECT: usize = 4;
/// Result elements that a task of the direct form computes.
const DIRECT_POINTS: usize = 4096;

/// Operands of a sum over channels and taps, apart from the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Correlation {
    /// Images.
    pub(crate) n: usize,
    /// Groups of channels.
    pub(crate) groups: usize,
    /// Source channels of a group.
    pub(crate) sources: usize,
    /// Result channels of a group.
    pub(crate) results: usize,
    /// Distance of weights of neighbouring source channels.
    pub(crate) source_stride: usize,
    /// Distance of weights of neighbouring result channels.
    pub(crate) result_stride: usize,
    /// Which source elements each point reads.
    pub(crate) axes: [Axis; 3],
}

impl Correlation {
    fn taps(&self) -> usize {
        geometry::taps(&self.axes)
    }

    fn terms(&self) -> usize {
        self.sources * self.taps()
    }

    fn source_len(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
    }

    fn result_len(&self) -> usize {
        self.axes.iter().map(|a| a.whole).product()
    }

    /// Whether the weights of a result channel are contiguous in the order of the terms.
    fn weights_in_order(&self) -> bool {
        geometry::has_all_taps(&self.axes) && self.source_stride == self.taps()
    }
}

/// Computes `result = bias + sum of weights * source` at the points of `c`.
pub(crate) fn correlate<T: Real, S: Stored<T>, W: Stored<T>>(
    pool: &Pool,
    c: &Correlation,
    source: &[S],
    weights: &[W],
    bias: Option<&[T]>,
    result: &Shared<'_, T>,
) {
    if c.n * c.groups * c.results * geometry::points(&c.axes) == 0 {
        return;
    }
    if c.results <= DIRECT || c.terms() == 0 {
        direct(pool, c, source, weights, bias, result);
    } else {
        blocks(pool, c, source, weights, bias, result);
    }
}

/// Points and result channels of a block.
fn block_size(c: &Correlation, copies_weights: bool) -> (usize, usize) {
    let points = geometry::points(&c.axes);
    let images = c.n * c.groups;
    let mut width = points.min(POINTS);
    let mut parts = c.results.div_ceil(CHANNELS);
    while images * points.div_ceil(width) * parts < TASKS {
        let channels = c.results.div_ceil(parts);
        if channels >= 512 {
            parts *= 2;
        } else if width > 128 && !copies_weights {
            width = (width / 2).next_multiple_of(16);
        } else if channels >= 256 {
            parts *= 2;
        } else {
            break;
        }
    }
    (width, c.results.div_ceil(parts).next_multiple_of(6))
}

#[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
fn blocks<T: Real, S: Stored<T>, W: Stored<T>>(
    pool: &Pool,
    c: &Correlation,
    source: &[S],
    weights: &[W],
    bias: Option<&[T]>,
    result: &Shared<'_, T>,
) {
    let (points, terms, taps) = (geometry::points(&c.axes), c.terms(), c.taps());
    let (source_len, result_len) = (c.source_len(), c.result_len());
    // Columns that are the source, if it is stored as it is computed with.
    let columns = S::plain(source).filter(|_| geometry::is_identity(&c.axes));
    let whole = geometry::is_whole(&c.axes);
    // All else is in single precision then.
    let half = W::views(DType::Bf16) && terms >= PAIRED && multiplies_pairs();
    let direct = whole && !half;
    // Only weights that are stored as they are computed with can be read in place.
    let plain = W::plain(weights);
    let in_order = plain.is_some() && c.weights_in_order();
    // One tap leaves weights that a product can read through its strides.
    let strided = plain.is_some() && !in_order && taps == 1;
    let (width, channels) = block_size(c, !in_order && !strided);
    let (across, down) = (points.div_ceil(width), c.results.div_ceil(channels));
    let group_weights = c.results.max(1) * c.sources * c.axes.iter().map(Axis::kernel_len).product::<usize>();
    // Whole source channels make the copies of weights regular.
    let chunk = if taps <= TERMS { TERMS / taps * taps } else { TERMS };
    let chunk = if columns.is_some() && (in_order || strided) { terms } else { chunk.min(terms) };
    pool.run(c.n * c.groups * across * down, |task, bytes| {
        let (image, block) = (task / (across * down), task % (across * down));
        let (batch, group) = (image / c.groups, image % c.groups);
        let from = block % across * width;
        let range = from..points.min(from + width);
        let r0 = block / across * channels;
        let rows = channels.min(c.results - r0);
        let n = range.len();
        let columns = columns.map(|columns| &columns[image * c.sources * source_len..]);
        let source = &source[image * c.sources * source_len..][..c.sources * source_len];
        let weights = &weights[group * group_weights..][..group_weights];
        let plain = plain.map_or(&[][..], |plain| &plain[group * group_weights..][..group_weights]);
        let bias = bias.map(|b| &b[group * c.results + r0..][..rows]);
        let first = (batch * c.groups + group) * c.results + r0;

        let (cols, rest) = split::<T>(bytes, if columns.is_some() { 0 } else { chunk * width });
        let (packed, rest) = split::<T>(rest, if in_order || strided { 0 } else { chunk * channels });
        let (tile, rest) = split::<T>(rest, if direct { 0 } else { n * rows });
        if let Some(bias) = bias {
            for (r, &b) in bias.iter().enumerate() {
                if direct {
                    // SAFETY: rows of points of different blocks are disjoint.
                    unsafe { result.range((first + r) * result_len + from, n) }.fill(b);
                } else {
                    tile[r * n..][..n].fill(b);
                }
            }
        }
        let mut start = 0;
        while start < terms {
            let some = start..terms.min(start + chunk);
            let k = some.len();
            let b = if let Some(columns) = columns {
                Mat::new(&columns[some.start * source_len + from..], source_len, 1)
            } else {
                dispatch(Columns { source, axes: &c.axes, terms: some.clone(), range: range.clone(), out: cols });
                Mat::new(&cols[..k * n], n, 1)
            };
            let (beta, dims) = (if start == 0 && bias.is_none() { 0.0 } else { 1.0 }, Dims { m: rows, n, k });
            if half && c.weights_in_order() {
                let weights = bytemuck::cast_slice::<_, bf16>(&weights[r0 * c.result_stride + start..]);
                add_pairs(dims, Mat::new(weights, c.result_stride, 1), b, beta, tile, rest);
                start += k;
                continue;
            }
            let a = if in_order {
                Mat::new(&plain[r0 * c.result_stride + start..], c.result_stride, 1)
            } else if strided {
                let tap = geometry::tap_index(&c.axes, 0);
                let at = r0 * c.result_stride + start * c.source_stride + tap;
                Mat::new(&plain[at..], c.result_stride, c.source_stride)
            } else {
                dispatch(Weights { c, weights, channels: r0..r0 + rows, terms: some, out: packed });
                Mat::new(&packed[..rows * k], k, 1)
            };
            if half {
                let a = Mat { data: bytemuck::cast_slice::<_, f32>(a.data), rs: a.rs, cs: a.cs };
                add_pairs(dims, a, b, beta, tile, rest);
            } else if whole {
                let at = first * result_len + from;
                // SAFETY: blocks are disjoint.
                unsafe { product_shared(dims, T::of(1.0), a, b, T::of(beta), result, at, [result_len, 1]) };
            } else {
                product(dims, T::of(1.0), a, b, T::of(beta), tile, [n, 1]);
            }
            start += k;
        }
        if !direct {
            for r in 0..rows {
                let tile = &tile[r * n..][..n];
                for run in geometry::runs(&c.axes, &range) {
                    let (target, apart) = run.target(&c.axes);
                    let start = (first + r) * result_len + target;
                    let row = &tile[run.before..][..run.widths.len()];
                    if apart == 1 {
                        // SAFETY: as below.
                        unsafe { result.range(start, row.len()) }.copy_from_slice(row);
                        continue;
                    }
                    for (i, &v) in row.iter().enumerate() {
                        // SAFETY: points of different blocks have different targets.
                        let out = unsafe { result.range(start + i * apart, 1) };
                        out[0] = v;
                    }
                }
            }
        }
    });
}

/// `c = a @ b + beta * c` of operands that are rounded to bfloat16, where rows of `c` are contiguous. `T` is `f32`.
fn add_pairs<T: Real, A: Stored<f32>>(
    dims: Dims,
    a: Mat<'_, A>,
    b: Mat<'_, T>,
    beta: f64,
    c: &mut [T],
    bytes: &mut [u8],
) {
    let (Dims { m, n, k }, c) = (dims, bytemuck::cast_slice_mut::<_, f32>(c));
    let b = Mat { data: bytemuck::cast_slice::<_, f32>(b.data), rs: b.rs, cs: b.cs };
    let mut panels = Panels::new(dims, a, b, scratch(bytes, scratch_len(m, k)));
    for column in (0..n).step_by(GROUP) {
        let columns = column..n.min(column + GROUP);
        let sums = panels.sums(columns.clone());
        for (c, sums) in c.chunks_exact_mut(n).zip(sums.chunks_exact(SUMS)) {
            let c = &mut c[columns.clone()];
            if beta == 0.0 {
                c.copy_from_slice(&sums[..c.len()]);
            } else {
                c.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
            }
        }
    }
}

/// Takes `len` elements from the front of scratch memory.
fn split<T: Real>(bytes: &mut [u8], len: usize) -> (&mut [T], &mut [u8]) {
    let (front, back) = bytes.split_at_mut((len * size_of::<T>()).next_multiple_of(64));
    (scratch(front, len), back)
}

struct Columns<'a, T, S> {
    source: &'a [S],
    axes: &'a [Axis; 3],
    terms: Range<usize>,
    range: Range<usize>,
    out: &'a mut [T],
}

impl<T: Real, S: Stored<T>> Job for Columns<'_, T, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        geometry::columns(self.source, self.axes, self.terms, self.range, self.out);
    }
}

/// Writes the weights of `channels` and `terms` to `out`, a row for each channel.
struct Weights<'a, T, W> {
    c: &'a Correlation,
    weights: &'a [W],
    channels: Range<usize>,
    terms: Range<usize>,
    out: &'a mut [T],
}

impl<T: Real, W: Stored<T>> Job for Weights<'_, T, W> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Weights { c, weights, channels, terms, out } = self;
        let taps = c.taps();
        let all = geometry::has_all_taps(&c.axes);
        let width = terms.len();
        let mut positions = [0; TERMS];
        let mut at = terms.start;
        while at < terms.end {
            let (s, t) = (at / taps, at % taps);
            let count = (taps - t).min(terms.end - at);
            let column = at - terms.start;
            let source = &weights[s * c.source_stride..];
            if all && count == 9 {
                copy_taps::<T, W, 9>(&source[t..], c.result_stride, channels.clone(), &mut out[column..], width);
            } else {
                for (j, p) in positions[..count].iter_mut().enumerate() {
                    *p = geometry::tap_index(&c.axes, t + j);
                }
                for (i, r) in channels.clone().enumerate() {
                    let out = &mut out[i * width + column..][..count];
                    let source = &source[r * c.result_stride..];
                    for (o, &p) in out.iter_mut().zip(&positions) {
                        *o = source[p].wide();
                    }
                }
            }
            at += count;
        }
    }
}

#[inline(always)]
fn copy_taps<T: Real, W: Stored<T>, const N: usize>(
    source: &[W],
    stride: usize,
    channels: Range<usize>,
    out: &mut [T],
    width: usize,
) {
    for (i, r) in channels.enumerate() {
        let taps: &[W; N] = match source[r * stride..].first_chunk() {
            Some(taps) => taps,
            None => unreachable!("the weights of a channel are complete"),
        };
        for (out, tap) in out[i * width..][..N].iter_mut().zip(taps) {
            *out = tap.wide();
        }
    }
}

/// The sums without a matrix product, a row of points at a time, for few result channels in a group.
#[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
fn direct<T: Real, S: Stored<T>, W: Stored<T>>(
    pool: &Pool,
    c: &Correlation,
    source: &[S],
    weights: &[W],
    bias: Option<&[T]>,
    result: &Shared<'_, T>,
) {
    let points = geometry::points(&c.axes);
    let (source_len, result_len) = (c.source_len(), c.result_len());
    let kernel: usize = c.axes.iter().map(Axis::kernel_len).product();
    let whole = geometry::is_whole(&c.axes);
    let row = c.axes[2].points;
    // Points of a task are whole rows; where the result is interleaved with that of other phases a task has a channel.
    let width = if whole { DIRECT_POINTS.next_multiple_of(row).min(points) } else { points };
    let across = points.div_ceil(width);
    pool.run(c.n * c.groups * c.results * across, |task, _| {
        let (channel, block) = (task / across, task % across);
        let (image, r) = (channel / c.results, channel % c.results);
        let group = image % c.groups;
        let from = block * width;
        let range = from..points.min(from + width);
        let bias = bias.map_or(T::of(0.0), |b| b[group * c.results + r]);
        let (start, len) = if whole { (from, range.len()) } else { (0, result_len) };
        // SAFETY: blocks of whole results are disjoint; otherwise the task alone has the channel during this launch's
        // phase, and phases follow each other.
        let out = unsafe { result.range(channel * result_len + start, len) };
        for run in geometry::runs(&c.axes, &range) {
            let (target, apart) = run.target(&c.axes);
            for i in 0..run.widths.len() {
                out[target + i * apart - start] = bias;
            }
        }
        dispatch(Direct {
            c,
            source: &source[image * c.sources * source_len..][..c.sources * source_len],
            weights: &weights[(group * c.sources * c.results * kernel).min(weights.len())..],
            channel: r,
            range,
            start,
            out,
        });
    });
}

struct Direct<'a, T, S, W> {
    c: &'a Correlation,
    source: &'a [S],
    weights: &'a [W],
    channel: usize,
    range: Range<usize>,
    start: usize,
    out: &'a mut [T],
}

impl<T: Real, S: Stored<T>, W: Stored<T>> Job for Direct<'_, T, S, W> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let c = self.c;
        let plane = c.source_len();
        let step = geometry::step(&c.axes);
        for s in 0..c.sources {
            let source = &self.source[s * plane..][..plane];
            let weights = &self.weights[s * c.source_stride + self.channel * c.result_stride..];
            for t in 0..c.taps() {
                let weight = weights[geometry::tap_index(&c.axes, t)].wide();
                let tap = geometry::Tap::new(&c.axes, t);
                for run in geometry::runs(&c.axes, &self.range) {
                    let Some((reached, from)) = tap.reach(&c.axes, &run) else {
                        continue;
                    };
                    let (target, apart) = run.target(&c.axes);
                    let target = target + (reached.start - run.widths.start) * apart;
                    let out = &mut self.out[target - self.start..];
                    if apart == 1 && step == 1 {
                        for (out, source) in out[..reached.len()].iter_mut().zip(&source[from..]) {
                            *out = weight.madd::<FMA>(source.wide(), *out);
                        }
                    } else {
                        for i in 0..reached.len() {
                            out[i * apart] = weight.madd::<FMA>(source[from + i * step].wide(), out[i * apart]);
                        }
                    }
                }
            }
        }
    }
}
