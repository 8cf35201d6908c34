//! The gradient at trained entries on a CPU: a task copies the input of some channels into planes in which each entry is one contiguous
//! dot product, a band of the output at a time, and goes through its rows. Operands in bfloat16 are copied as they are stored.

use super::layout::{Band, Layout, position};
use crate::conv::Geometry;
use crate::sampled::{InPlace, Lines, Operands, Sampled};
use crate::simd::{Job, Real, copy, dispatch, prefetch};
use crate::{Launch, Shared, Stored, for_rounded_pair, scratch};
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of a dot product that are summed at once, if operands are read in place.
const PIECE: usize = 1024;

pub(super) fn run(l: &Launch<'_>) {
    for_rounded_pair!(l.dtype("x"), l.dtype("dy"), T, X, Y => typed::<T, X, Y>(l))
}

fn typed<T: Real, X: Stored<T>, Y: Stored<T>>(l: &Launch<'_>) {
    let g = Geometry::of(l);
    let (x, dy, idx) = (l.read::<X>("x"), l.read::<Y>("dy"), l.read::<u32>("idx"));
    if idx.is_empty() {
        return;
    }
    let out = l.write::<T>("dp");
    let (input_len, output_len) = (g.input_len(), g.output_len());
    if g.n * output_len * input_len == 0 {
        out[..idx.len()].fill(T::of(0.0));
        return;
    }
    let out = Shared::new(out);
    let (rows, cols) = (g.co, g.ci_group() * g.taps());
    if g.taps() == 1 && g.input == g.output && g.strides == [1; 3] && g.pads == [0; 3] {
        for image in 0..g.n {
            let operands = InPlace {
                left: &dy[image * g.co * output_len..],
                right: &x[image * g.ci * input_len..],
                apart: [output_len; 2],
                len: output_len,
                most: PIECE,
                group: [g.co_group(), g.ci_group()],
            };
            Sampled { idx, rows, cols, operands, add: image > 0, out: &out }.run(l.pool);
        }
        return;
    }
    let layout = Layout::new(&g);
    let operands = Bands { g: &g, layout, x, dy, wide: PhantomData::<T> };
    Sampled { idx, rows, cols, operands, add: false, out: &out }.run(l.pool);
}

/// Operands in bands.
struct Bands<'a, T, X, Y> {
    g: &'a Geometry,
    layout: Layout,
    x: &'a [X],
    dy: &'a [Y],
    wide: PhantomData<T>,
}

impl<T, X: Stored<T>, Y: Stored<T>> Bands<'_, T, X, Y> {
    /// Planes that lie together in those of some columns.
    fn units(&self, columns: &Range<usize>) -> usize {
        columns.len() / self.layout.columns(self.g)
    }
}

impl<T: Real, X: Stored<T>, Y: Stored<T>> Operands<T> for Bands<'_, T, X, Y> {
    type Left = Y;
    type Right = X;
    type Piece = Band;

    fn pieces(&self) -> impl Iterator<Item = Band> {
        self.layout.bands(self.g)
    }

    fn lines(&self, band: Band) -> Lines {
        let Layout { extent: [_, _, ew], run, in_place, .. } = self.layout;
        if !in_place {
            return Lines { count: 1, len: run, left: run, right: run };
        }
        let [_, count, len] = band.extents;
        Lines { count, len, left: self.g.output[2], right: ew }
    }

    #[inline(always)]
    fn left<'s>(&'s self, band: Band, row: usize, room: &'s mut [u8]) -> &'s [Y] {
        let (g, layout) = (self.g, &self.layout);
        let Band { image, images, start, extents: [depth, height, width] } = band;
        let [_, oh, ow] = g.output;
        let at = |image: usize, d: usize, h: usize| {
            &self.dy[(image * g.co + row) * g.output_len() + ((start[0] + d) * oh + start[1] + h) * ow + start[2]..]
        };
        if layout.in_place {
            return at(image, 0, 0);
        }
        let run = scratch::<Y>(room, layout.run);
        run.fill(Y::zeroed());
        let [_, eh, ew] = layout.extent;
        for i in 0..images {
            for d in 0..depth {
                for h in 0..height {
                    let first = i * (layout.plane / layout.images) + (d * eh + h) * ew;
                    copy(at(image + i, d, h), &mut run[first..][..width]);
                }
            }
        }
        run
    }

    #[inline(always)]
    fn source(&self, band: Band, row: usize) -> &[Y] {
        let ([_, oh, ow], [d, h, w]) = (self.g.output, band.start);
        let first = (band.image * self.g.co + row) * self.g.output_len() + (d * oh + h) * ow + w;
        self.dy.get(first..).unwrap_or_default()
    }

    fn group(&self) -> usize {
        self.g.co_group()
    }

    fn unit(&self) -> (usize, usize) {
        (self.layout.columns(self.g), self.layout.unit * size_of::<X>())
    }

    fn copies(&self) -> bool {
        true
    }

    fn right<'s>(&'s self, band: Band, groups: &Range<usize>, columns: &Range<usize>, room: &'s mut [u8]) -> &'s [X] {
        let planes = scratch::<X>(room, groups.len() * self.apart(columns));
        dispatch(Spread { of: self, band, groups, columns, planes: &mut *planes });
        planes
    }

    fn starts(&self, _: &Range<usize>, starts: &mut [usize]) {
        let taps = self.layout.columns(self.g);
        for i in 0..starts.len() {
            starts[i] = if i < taps { self.layout.tap(self.g, i) } else { starts[i - taps] + self.layout.unit };
        }
    }

    fn apart(&self, columns: &Range<usize>) -> usize {
        self.units(columns) * self.layout.unit
    }
}

/// Copies what a band reads of the input into planes.
struct Spread<'a, 'b, T, X, Y> {
    of: &'a Bands<'b, T, X, Y>,
    band: Band,
    groups: &'a Range<usize>,
    columns: &'a Range<usize>,
    planes: &'a mut [X],
}

impl<T, X: Stored<T>, Y: Stored<T>> Job for Spread<'_, '_, T, X, Y> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Spread { of, band, groups, columns, planes } = self;
        let (g, layout, units) = (of.g, &of.layout, of.units(columns));
        for (i, unit) in planes.chunks_exact_mut(layout.unit).enumerate() {
            let channel = (groups.start + i / units) * g.ci_group();
            if layout.shared {
                let channel = channel + columns.start / g.taps() + i % units;
                for (phase, plane) in unit.chunks_mut(layout.plane).enumerate() {
                    if phase < layout.phases.iter().product() {
                        of.spread(band, channel, position(phase, layout.phases), plane);
                    } else {
                        plane.fill(X::zeroed());
                    }
                }
            } else {
                let column = columns.start + i % units;
                let (plane, beyond) = unit.split_at_mut(layout.plane);
                of.spread(band, channel + column / g.taps(), position(column % g.taps(), g.kernel), plane);
                beyond.fill(X::zeroed());
            }
        }
    }
}

impl<T, X: Stored<T>, Y: Stored<T>> Bands<'_, T, X, Y> {
    /// Copies one plane of a channel.
    #[inline(always)]
    fn spread(&self, band: Band, channel: usize, phase: [usize; 3], plane: &mut [X]) {
        let (g, layout, Band { image, images, start, .. }) = (self.g, &self.layout, band);
        let base: [isize; 3] = std::array::from_fn(|d| layout.base(g, d, phase[d], start[d]));
        let [depth, eh, ew] = layout.extent;
        let [_, ih, iw] = g.input;
        let inside = |d: usize, q: usize| {
            let at = (q * g.strides[d]) as isize + base[d];
            (at >= 0 && at < g.input[d] as isize).then_some(at as usize)
        };
        // Element q of a line is input element q * stride + base.
        let stride = g.strides[2];
        let bound = |least: isize| if least <= 0 { 0 } else { (least as usize).div_ceil(stride) };
        let low = bound(-base[2]).min(ew);
        let high = bound(g.input[2] as isize - base[2]).clamp(low, ew);
        let first = ((low * stride) as isize + base[2]) as usize;
        for (i, plane) in plane.chunks_exact_mut(layout.plane / layout.images).enumerate() {
            let source = (i < images).then(|| &self.x[((image + i) * g.ci + channel) * g.input_len()..]);
            for (row, line) in plane.chunks_exact_mut(ew).enumerate() {
                let (d, h) = if depth == 1 { (0, row) } else { (row / eh, row % eh) };
                let (Some(source), Some(d), Some(h), true) = (source, inside(0, d), inside(1, h), low < high) else {
                    line.fill(X::zeroed());
                    continue;
                };
                line[..low].fill(X::zeroed());
                line[high..].fill(X::zeroed());
                let (row, line) = (&source[(d * ih + h) * iw + first..], &mut line[low..high]);
                if stride == 1 {
                    // The next channel is copied next.
                    for at in (0..line.len()).step_by(64 / size_of::<X>()) {
                        prefetch(row, g.input_len() + at);
                    }
                    copy(row, line);
                } else {
                    for (to, from) in line.iter_mut().zip(row.iter().step_by(stride)) {
                        *to = *from;
                    }
                }
            }
        }
    }
}
