//! Shape of a convolution, and the columns of its operand that a matrix product reads.

use crate::simd::Real;
use crate::{Call, ScalarKind};
use std::ops::Range;

/// Scalars of every convolution kernel, in the order of the declaration.
pub(crate) const SCALARS: &[(&str, ScalarKind)] = &[
    ("n", ScalarKind::Int),
    ("groups", ScalarKind::Int),
    ("ci", ScalarKind::Int),
    ("co", ScalarKind::Int),
    ("input", ScalarKind::Ints),
    ("output", ScalarKind::Ints),
    ("kernel", ScalarKind::Ints),
    ("strides", ScalarKind::Ints),
    ("pads", ScalarKind::Ints),
    ("dilations", ScalarKind::Ints),
];

/// Shape of a convolution; spatial dimensions are depth, height, width.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Images.
    pub n: usize,
    /// Groups of channels.
    pub groups: usize,
    /// Channels of the input.
    pub ci: usize,
    /// Channels of the output.
    pub co: usize,
    /// Extents of the input.
    pub input: [usize; 3],
    /// Extents of the output.
    pub output: [usize; 3],
    /// Extents of the kernel.
    pub kernel: [usize; 3],
    /// Strides.
    pub strides: [usize; 3],
    /// Zeros before the first element.
    pub pads: [usize; 3],
    /// Distances between taps.
    pub dilations: [usize; 3],
}

impl Geometry {
    /// The shape in the scalars of a launch.
    pub fn of(call: &Call<'_>) -> Geometry {
        let three = |name| {
            let v = call.ints(name);
            [v[0] as usize, v[1] as usize, v[2] as usize]
        };
        Geometry {
            n: call.int("n"),
            groups: call.int("groups"),
            ci: call.int("ci"),
            co: call.int("co"),
            input: three("input"),
            output: three("output"),
            kernel: three("kernel"),
            strides: three("strides"),
            pads: three("pads"),
            dilations: three("dilations"),
        }
    }

    /// Elements of one channel of the input.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of one channel of the output.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// Elements of one kernel plane.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Input channels of a group.
    pub fn ci_group(&self) -> usize {
        self.ci / self.groups.max(1)
    }

    /// Output channels of a group.
    pub fn co_group(&self) -> usize {
        self.co / self.groups.max(1)
    }

    /// Floating-point operations, not counting that padding needs none.
    pub fn flops(&self) -> u64 {
        2 * (self.n * self.co * self.output_len()) as u64 * (self.ci_group() * self.taps()) as u64
    }

    /// What each output element of the convolution reads from the input.
    pub(crate) fn forward(&self) -> [Axis; 3] {
        std::array::from_fn(|d| Axis {
            points: self.output[d],
            size: self.input[d],
            step: self.strides[d] as isize,
            base: -(self.pads[d] as isize),
            delta: self.dilations[d] as isize,
            taps: self.kernel[d],
            first: 0,
            every: 1,
            kernel: self.kernel[d],
            whole: self.output[d],
            start: 0,
            stride: 1,
        })
    }

    /// Classes of input elements that read the output gradient through the same taps.
    pub(crate) fn phases(&self) -> usize {
        self.strides.iter().product()
    }

    /// What each input element of class `phase` reads from the output gradient.
    pub(crate) fn backward(&self, phase: usize) -> [Axis; 3] {
        let [_, sh, sw] = self.strides;
        let phase = [phase / (sh * sw), phase / sw % sh, phase % sw];
        std::array::from_fn(|d| {
            let (stride, dilation) = (self.strides[d], self.dilations[d]);
            let points = if self.input[d] > phase[d] {
                (self.input[d] - phase[d]).div_ceil(stride)
            } else {
                0
            };
            // Tap t of input element i reads output element (i + pad - t * dilation) / stride where that is whole; the
            // taps for which it is whole are `every` apart.
            let at = (phase[d] + self.pads[d]) as isize;
            let whole = |t: usize| (at - (t * dilation) as isize).rem_euclid(stride as isize) == 0;
            let every = stride / gcd(stride, dilation);
            let first = (0..every.min(self.kernel[d])).find(|&t| whole(t));
            let (first, taps) = match first {
                Some(t) => (t, (self.kernel[d] - t).div_ceil(every)),
                None => (0, 0),
            };
            Axis {
                points,
                size: self.output[d],
                step: 1,
                base: (at - (first * dilation) as isize).div_euclid(stride as isize),
                delta: -((every * dilation / stride) as isize),
                taps,
                first,
                every,
                kernel: self.kernel[d],
                whole: self.input[d],
                start: phase[d],
                stride,
            }
        })
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One spatial dimension of a sum over taps: point `q`, tap `j` reads element `q * step + base + j * delta` of the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    /// Points computed.
    pub(crate) points: usize,
    /// Extent of the source.
    pub(crate) size: usize,
    step: isize,
    base: isize,
    delta: isize,
    /// Taps that contribute.
    pub(crate) taps: usize,
    /// Index of the first of them in the kernel.
    first: usize,
    /// Their distance in the kernel.
    every: usize,
    /// Extent of the kernel.
    kernel: usize,
    /// Extent of the result; point `q` is its element `start + q * stride`.
    pub(crate) whole: usize,
    start: usize,
    stride: usize,
}

impl Axis {
    /// Source element that point `q` reads through tap `j`, if it is not padding.
    #[inline(always)]
    fn source(&self, q: usize, j: usize) -> Option<usize> {
        let at = q as isize * self.step + self.base + j as isize * self.delta;
        (at >= 0 && at < self.size as isize).then_some(at as usize)
    }

    /// Points that do not read padding through tap `j`.
    #[inline(always)]
    fn inside(&self, j: usize) -> Range<usize> {
        let offset = self.base + j as isize * self.delta;
        let bound = |least: isize| {
            if least <= 0 {
                0
            } else {
                (least as usize).div_ceil(self.step as usize)
            }
        };
        let low = bound(-offset).min(self.points);
        let high = bound(self.size as isize - offset).min(self.points);
        low..high.max(low)
    }

    /// Extent of the kernel, with the taps that do not contribute.
    pub(crate) fn kernel_len(&self) -> usize {
        self.kernel
    }

    /// Result element of point `q`.
    fn target(&self, q: usize) -> usize {
        self.start + q * self.stride
    }
}

/// Whether points and source elements are the same, so that columns need no copy.
pub(crate) fn is_identity(axes: &[Axis; 3]) -> bool {
    axes.iter()
        .all(|a| a.taps == 1 && a.step == 1 && a.base == 0 && a.points == a.size)
}

/// Whether points are the elements of the result in order.
pub(crate) fn is_whole(axes: &[Axis; 3]) -> bool {
    axes.iter().all(|a| a.stride == 1)
}

/// Whether every tap of the kernel contributes, in order.
pub(crate) fn has_all_taps(axes: &[Axis; 3]) -> bool {
    axes.iter()
        .all(|a| a.taps == a.kernel && (a.every == 1 || a.taps == 1))
}

/// Taps that contribute.
pub(crate) fn taps(axes: &[Axis; 3]) -> usize {
    axes.iter().map(|a| a.taps).product()
}

/// Points computed.
pub(crate) fn points(axes: &[Axis; 3]) -> usize {
    axes.iter().map(|a| a.points).product()
}

/// Position in the kernel plane of contributing tap `t`.
pub(crate) fn tap_index(axes: &[Axis; 3], t: usize) -> usize {
    let [d, h, w] = axes;
    let at = |a: &Axis, j: usize| a.first + a.every * j;
    let (td, th, tw) = (t / (h.taps * w.taps), t / w.taps % h.taps, t % w.taps);
    (at(d, td) * h.kernel + at(h, th)) * w.kernel + at(w, tw)
}

/// Calls `f(points before this run, depth, height, widths)` for each run of `range` in one row of points.
#[inline(always)]
pub(crate) fn rows(
    axes: &[Axis; 3],
    range: Range<usize>,
    mut f: impl FnMut(usize, usize, usize, Range<usize>),
) {
    let [_, h, w] = axes;
    let mut at = range.start;
    if at >= range.end {
        return;
    }
    let mut from = at % w.points;
    let (mut depth, mut height) = (at / w.points / h.points, at / w.points % h.points);
    while at < range.end {
        let to = w.points.min(from + range.end - at);
        f(at - range.start, depth, height, from..to);
        at += to - from;
        from = 0;
        height += 1;
        if height == h.points {
            height = 0;
            depth += 1;
        }
    }
}

/// Copies to the result's elements: `f(point within range, result element)` for each point of `range`.
pub(crate) fn targets(axes: &[Axis; 3], range: Range<usize>, mut f: impl FnMut(usize, usize)) {
    let [d, h, w] = axes;
    rows(axes, range, |before, pd, ph, widths| {
        let row = (d.target(pd) * h.whole + h.target(ph)) * w.whole;
        for (i, q) in widths.enumerate() {
            f(before + i, row + w.target(q));
        }
    });
}

/// Writes rows `terms` (channel and tap, tap fastest) of the columns of `range` to `out`, one row after the other.
///
/// `source` holds channel planes; row `c * taps + t` has for each point the element of channel `c` that tap `t` reads.
#[inline(always)]
pub(crate) fn columns<T: Real>(
    source: &[T],
    axes: &[Axis; 3],
    terms: Range<usize>,
    range: Range<usize>,
    out: &mut [T],
) {
    let [d, h, w] = axes;
    let plane = d.size * h.size * w.size;
    let taps = taps(axes);
    let zero = T::of(0.0);
    for (term, out) in terms.zip(out.chunks_exact_mut(range.len())) {
        let (c, t) = (term / taps, term % taps);
        let (td, th, tw) = (t / (h.taps * w.taps), t / w.taps % h.taps, t % w.taps);
        let source = &source[c * plane..][..plane];
        let inside = w.inside(tw);
        let offset = w.base + tw as isize * w.delta;
        rows(axes, range.clone(), |before, pd, ph, widths| {
            let out = &mut out[before..][..widths.len()];
            let (Some(sd), Some(sh)) = (d.source(pd, td), h.source(ph, th)) else {
                out.fill(zero);
                return;
            };
            let row = &source[(sd * h.size + sh) * w.size..][..w.size];
            let low = inside.start.clamp(widths.start, widths.end);
            let high = inside.end.clamp(low, widths.end);
            for v in &mut out[..low - widths.start] {
                *v = zero;
            }
            for v in &mut out[high - widths.start..] {
                *v = zero;
            }
            if low == high {
                return;
            }
            let first = (low as isize * w.step + offset) as usize;
            let out = &mut out[low - widths.start..high - widths.start];
            if w.step == 1 {
                for (o, s) in out.iter_mut().zip(&row[first..]) {
                    *o = *s;
                }
            } else {
                for (o, s) in out
                    .iter_mut()
                    .zip(row[first..].iter().step_by(w.step as usize))
                {
                    *o = *s;
                }
            }
        });
    }
}

/// Calls `f(first result element, distance of result elements, source row, distance of source elements, count)` for the
/// part of each row of points in `range` that tap `t` reads from outside the padding. Result elements count from that of
/// the first point of the result; the source row is cut to begin at its first element.
#[inline(always)]
pub(crate) fn shifted_rows<T>(
    plane: &[T],
    axes: &[Axis; 3],
    t: usize,
    range: Range<usize>,
    mut f: impl FnMut(usize, usize, &[T], usize, usize),
) {
    let [d, h, w] = axes;
    let (td, th, tw) = (t / (h.taps * w.taps), t / w.taps % h.taps, t % w.taps);
    let inside = w.inside(tw);
    let offset = w.base + tw as isize * w.delta;
    rows(axes, range, |_, pd, ph, widths| {
        let (Some(sd), Some(sh)) = (d.source(pd, td), h.source(ph, th)) else {
            return;
        };
        let low = inside.start.clamp(widths.start, widths.end);
        let high = inside.end.clamp(low, widths.end);
        if low == high {
            return;
        }
        let first = (low as isize * w.step + offset) as usize;
        let row = &plane[(sd * h.size + sh) * w.size..][..w.size];
        let result = (d.target(pd) * h.whole + h.target(ph)) * w.whole + w.target(low);
        f(result, w.stride, &row[first..], w.step as usize, high - low);
    });
}
