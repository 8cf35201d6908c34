//! Shape of a convolution, and the columns of its operand that a matrix product reads.

use crate::simd::{Real, copy};
use crate::{Call, ScalarKind, Stored};
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

    /// The shape as `Geometry` in `conv.h` has it.
    pub(crate) fn param(&self) -> crate::cuda::Param {
        let mut words = [self.n, self.groups, self.ci, self.co].to_vec();
        for three in [self.input, self.output, self.kernel, self.strides, self.pads, self.dilations] {
            words.extend(three);
        }
        crate::cuda::Param::Struct(words.into_iter().map(|w| w as i64).collect())
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
            let points = if self.input[d] > phase[d] { (self.input[d] - phase[d]).div_ceil(stride) } else { 0 };
            // Tap t of input element i reads output element (i + pad - t * dilation) / stride where that is whole; the
            // taps for which it is whole are `every` apart.
            let at = (phase[d] + self.pads[d]) as isize;
            let whole = |t: usize| (at - (t * dilation) as isize).rem_euclid(stride as isize) == 0;
            let every = tap_period(self, d);
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

/// Taps in dimension `d` that are this far apart read input elements with the same remainder modulo the stride.
pub(crate) fn tap_period(g: &Geometry, d: usize) -> usize {
    (g.strides[d] / gcd(g.strides[d], g.dilations[d]).max(1)).max(1)
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
            if least <= 0 { 0 } else { (least as usize).div_ceil(self.step as usize) }
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
    pub(crate) fn target(&self, q: usize) -> usize {
        self.start + q * self.stride
    }

    /// Result elements from a point to the next.
    pub(crate) fn apart(&self) -> usize {
        self.stride
    }

    /// Source elements from what a point reads to what the next one does.
    pub(crate) fn step(&self) -> usize {
        self.step as usize
    }

    /// What the furthest of the taps before tap 0 adds to it.
    fn lowest(&self) -> isize {
        (self.taps.saturating_sub(1) as isize * self.delta).min(0)
    }

    /// The first source element that point 0 reads, which may be padding.
    pub(crate) fn origin(&self) -> isize {
        self.base + self.lowest()
    }

    /// How far beyond the first element that a point reads its tap `j` does.
    pub(crate) fn shift(&self, j: usize) -> usize {
        (j as isize * self.delta - self.lowest()) as usize
    }

    /// The furthest of those.
    pub(crate) fn reach(&self) -> usize {
        self.taps.saturating_sub(1) * self.delta.unsigned_abs()
    }
}

/// Whether points and source elements are the same, so that columns need no copy.
pub(crate) fn is_identity(axes: &[Axis; 3]) -> bool {
    axes.iter().all(|a| a.taps == 1 && a.step == 1 && a.base == 0 && a.points == a.size)
}

/// Whether points are the elements of the result in order.
pub(crate) fn is_whole(axes: &[Axis; 3]) -> bool {
    axes.iter().all(|a| a.stride == 1)
}

/// Whether every tap of the kernel contributes, in order.
pub(crate) fn has_all_taps(axes: &[Axis; 3]) -> bool {
    axes.iter().all(|a| a.taps == a.kernel && (a.every == 1 || a.taps == 1))
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

/// A run of points in one row.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Points of the range before this run.
    pub(crate) before: usize,
    depth: usize,
    height: usize,
    /// Points of the row.
    pub(crate) widths: Range<usize>,
}

/// The runs of a range of points.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    heights: usize,
    row: usize,
    depth: usize,
    height: usize,
    from: usize,
    before: usize,
    left: usize,
}

/// The runs of `range`.
#[inline(always)]
pub(crate) fn runs(axes: &[Axis; 3], range: &Range<usize>) -> Runs {
    let [_, h, w] = axes;
    let (row, heights) = (w.points.max(1), h.points.max(1));
    Runs {
        heights,
        row,
        depth: range.start / row / heights,
        height: range.start / row % heights,
        from: range.start % row,
        before: 0,
        left: range.len(),
    }
}

impl Iterator for Runs {
    type Item = Run;
    #[inline(always)]
    fn next(&mut self) -> Option<Run> {
        if self.left == 0 {
            return None;
        }
        let to = self.row.min(self.from + self.left);
        let run = Run { before: self.before, depth: self.depth, height: self.height, widths: self.from..to };
        self.before += to - self.from;
        self.left -= to - self.from;
        self.from = 0;
        self.height += 1;
        if self.height == self.heights {
            self.height = 0;
            self.depth += 1;
        }
        Some(run)
    }
}

impl Run {
    /// First result element of the run and the distance of its result elements.
    #[inline(always)]
    pub(crate) fn target(&self, axes: &[Axis; 3]) -> (usize, usize) {
        let [d, h, w] = axes;
        let row = (d.target(self.depth) * h.whole + h.target(self.height)) * w.whole;
        (row + w.target(self.widths.start), w.stride)
    }
}

/// One tap of a sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    depth: usize,
    height: usize,
    /// Points of a row that do not read padding.
    low: usize,
    high: usize,
    /// Distance from a point's multiple of the step to the source element.
    offset: isize,
}

impl Tap {
    /// Contributing tap `t`.
    #[inline(always)]
    pub(crate) fn new(axes: &[Axis; 3], t: usize) -> Tap {
        let [_, h, w] = axes;
        let j = t % w.taps;
        let inside = w.inside(j);
        Tap {
            depth: t / (h.taps * w.taps),
            height: t / w.taps % h.taps,
            low: inside.start,
            high: inside.end,
            offset: w.base + j as isize * w.delta,
        }
    }

    /// The points of a run that do not read padding, and the first source element they read.
    #[inline(always)]
    pub(crate) fn reach(&self, axes: &[Axis; 3], run: &Run) -> Option<(Range<usize>, usize)> {
        let [d, h, w] = axes;
        let sd = d.source(run.depth, self.depth)?;
        let sh = h.source(run.height, self.height)?;
        let low = self.low.max(run.widths.start);
        let high = self.high.min(run.widths.end);
        if low >= high {
            return None;
        }
        let first = (low as isize * w.step + self.offset) as usize;
        Some((low..high, (sd * h.size + sh) * w.size + first))
    }
}

/// Distance of the source elements that neighbouring points of a row read.
pub(crate) fn step(axes: &[Axis; 3]) -> usize {
    axes[2].step as usize
}

/// Writes rows `terms` (channel and tap, tap fastest) of the columns of `range` to `out`, one row after the other.
///
/// `source` holds channel planes, which are widened; row `c * taps + t` has for each point the element of channel `c` that tap `t` reads.
#[inline(always)]
pub(crate) fn columns<T: Real, S: Stored<T>>(
    source: &[S],
    axes: &[Axis; 3],
    terms: Range<usize>,
    range: Range<usize>,
    out: &mut [T],
) {
    let plane = axes.iter().map(|a| a.size).product::<usize>();
    let taps = taps(axes);
    let step = step(axes);
    let zero = T::of(0.0);
    for (term, out) in terms.zip(out.chunks_exact_mut(range.len())) {
        let source = &source[term / taps * plane..][..plane];
        let tap = Tap::new(axes, term % taps);
        for run in runs(axes, &range) {
            let out = &mut out[run.before..][..run.widths.len()];
            let Some((reached, first)) = tap.reach(axes, &run) else {
                out.fill(zero);
                continue;
            };
            let (low, high) = (reached.start - run.widths.start, reached.end - run.widths.start);
            if low > 0 {
                out[..low].fill(zero);
            }
            if high < out.len() {
                out[high..].fill(zero);
            }
            let out = &mut out[low..high];
            match S::plain(source) {
                Some(source) if step == 1 => copy(&source[first..], out),
                _ => {
                    for (o, s) in out.iter_mut().zip(source[first..].iter().step_by(step)) {
                        *o = s.wide();
                    }
                }
            }
        }
    }
}
