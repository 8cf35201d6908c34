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
        let ([_, count, len], width) = (band.extents, self.g.output[2]);
        match in_place {
            true if ew == width => Lines { count: 1, len: count * len, left: 0, right: 0 },
            true => Lines { count, len, left: width, right: ew },
            false => Lines { count: 1, len: run, left: run, right: run },
        }
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
                    let first = ((i * layout.extent[0] + d) * eh + h) * ew;
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
        // Elements q of dimension d for which input element q * stride + base exists.
        let inside = |d: usize| {
            let bound = |at: isize| (at.max(0) as usize).div_ceil(g.strides[d]).min(layout.extent[d]);
            bound(-base[d])..bound(g.input[d] as isize - base[d])
        };
        let at = |d: usize, q: usize| ((q * g.strides[d]) as isize + base[d]) as usize;
        let [depths, rows, cols] = [0, 1, 2].map(inside);
        for (i, slab) in plane.chunks_mut(eh * ew).enumerate() {
            let (i, d) = (i / depth, i % depth);
            if i >= images || !depths.contains(&d) || rows.is_empty() || cols.is_empty() {
                slab.fill(X::zeroed());
                continue;
            }
            let source = &self.x[((image + i) * g.ci + channel) * g.input_len() + at(0, d) * ih * iw..];
            slab[..rows.start * ew].fill(X::zeroed());
            slab[rows.end * ew..].fill(X::zeroed());
            let lines = &mut slab[rows.start * ew..rows.end * ew];
            let (first, len) = (at(1, rows.start) * iw + at(2, cols.start), lines.len());
            if layout.shared && phase == [0; 3] {
                // The next channel is copied next.
                let end = at(1, rows.end - 1) * iw + at(2, cols.end - 1) + 1;
                for at in (first..end).step_by(64 / size_of::<X>()) {
                    prefetch(source, g.input_len() + at);
                }
            }
            if g.strides[1] == 1 && g.strides[2] == 1 && ew == iw {
                // Lines are as long as the input's, so that they are copied together, with what must be zero between them.
                copy(&source[first..], &mut lines[cols.start..len - (ew - cols.end)]);
                for line in lines.chunks_exact_mut(ew) {
                    line[..cols.start].fill(X::zeroed());
                    line[cols.end..].fill(X::zeroed());
                }
                continue;
            }
            for (row, line) in rows.clone().zip(lines.chunks_exact_mut(ew)) {
                line[..cols.start].fill(X::zeroed());
                line[cols.end..].fill(X::zeroed());
                let source = &source[at(1, row) * iw + at(2, cols.start)..];
                let line = &mut line[cols.clone()];
                if g.strides[2] == 1 {
                    copy(source, line);
                } else {
                    for (to, from) in line.iter_mut().zip(source.iter().step_by(g.strides[2])) {
                        *to = *from;
                    }
                }
            }
        }
    }
}
