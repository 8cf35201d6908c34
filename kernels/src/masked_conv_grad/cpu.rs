//! The gradient at trained entries on a CPU: operands are copied into planes in which each entry is one contiguous dot
//! product, and tasks own the entries of some rows and columns of the weight. Operands in bfloat16 are copied as they are stored.

use super::Layout;
use crate::conv::geometry::{self, Geometry};
use crate::sampled::Sampled;
use crate::simd::{Job, Real, copy, dispatch};
use crate::{Element, Launch, Shared, Stored, for_rounded_pair};
use std::ops::Range;

/// Elements of a dot product that are summed at once, if planes are longer.
const PIECE: usize = 1024;

pub(super) fn run(l: &Launch<'_>) {
    for_rounded_pair!(l.dtype("x"), l.dtype("dy"), T, X, Y => typed::<T, X, Y>(l))
}

#[expect(unsafe_code, reason = "tasks write disjoint planes of the work memory")]
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
    let layout = Layout::new(&g);
    if layout.in_place {
        for image in 0..g.n {
            let (x, dy) = (&x[image * g.ci * input_len..], &dy[image * g.co * output_len..]);
            let runs = Runs { pitch: output_len, len: output_len, line: output_len };
            sample(l, &g, &layout, idx, x, dy, &runs, &out, image > 0);
        }
        return;
    }
    // Elements that are no wider have room where those of `T` have.
    let (dy_planes, x_planes) = l.write::<T>("work").split_at_mut(g.co * layout.dy_plane);
    let dy_planes: Shared<'_, Y> = Shared::new(bytemuck::cast_slice_mut(dy_planes));
    let x_planes: Shared<'_, X> = Shared::new(bytemuck::cast_slice_mut(x_planes));
    let [dy_len, x_len] = [g.co * layout.dy_plane, g.ci * layout.x_channel];
    let mut add = false;
    for image in (0..g.n).step_by(layout.images) {
        for depth in (0..g.output[0]).step_by(layout.band[0]) {
            for height in (0..g.output[1]).step_by(layout.band[1]) {
                let at = Band { images: image..g.n.min(image + layout.images), start: [depth, height, 0] };
                let copied = if layout.dy_in_place { 0 } else { g.co };
                l.pool.run(copied + g.ci, |task, _| {
                    let (g, layout, band) = (&g, &layout, &at);
                    // SAFETY: each task writes the planes of one channel.
                    unsafe {
                        match task.checked_sub(copied) {
                            None => {
                                let plane = dy_planes.range(task * layout.dy_plane, layout.dy_plane);
                                dispatch(SpreadOutput { g, layout, band, dy, channel: task, plane });
                            }
                            Some(channel) => {
                                let planes = x_planes.range(channel * layout.x_channel, layout.x_channel);
                                dispatch(SpreadInput { g, layout, band, x, channel, planes });
                            }
                        }
                    }
                });
                // SAFETY: the tasks that wrote them have ended.
                let (dy_planes, x) = unsafe { (&*dy_planes.range(0, dy_len), &*x_planes.range(0, x_len)) };
                let row = g.output[2];
                if layout.dy_in_place {
                    let len = layout.band[1].min(g.output[1] - height) * row;
                    let dy = &dy[image * g.co * output_len + height * row..];
                    sample(l, &g, &layout, idx, x, dy, &Runs { pitch: output_len, len, line: row }, &out, add);
                } else {
                    let len = layout.dy_plane;
                    sample(l, &g, &layout, idx, x, dy_planes, &Runs { pitch: len, len, line: len }, &out, add);
                }
                add = true;
            }
        }
    }
}

/// Images and first output element of a band.
struct Band {
    images: Range<usize>,
    start: [usize; 3],
}

/// Copies one channel of the output gradient into its plane.
struct SpreadOutput<'a, S> {
    g: &'a Geometry,
    layout: &'a Layout,
    band: &'a Band,
    dy: &'a [S],
    channel: usize,
    plane: &'a mut [S],
}

impl<S: Element> Job for SpreadOutput<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let SpreadOutput { g, layout, band, dy, channel, plane } = self;
        let [_, eh, ew] = layout.extent;
        let image_len = layout.x_plane / layout.images;
        plane.fill(S::zeroed());
        let [od, oh, ow] = g.output;
        for (i, image) in band.images.clone().enumerate() {
            let source = &dy[(image * g.co + channel) * g.output_len()..];
            for d in 0..layout.band[0].min(od - band.start[0]) {
                for h in 0..layout.band[1].min(oh - band.start[1]) {
                    let row = &source[((band.start[0] + d) * oh + band.start[1] + h) * ow..][..ow];
                    copy(row, &mut plane[i * image_len + (d * eh + h) * ew..][..ow]);
                }
            }
        }
    }
}

/// Copies one channel of the input into its planes.
struct SpreadInput<'a, S> {
    g: &'a Geometry,
    layout: &'a Layout,
    band: &'a Band,
    x: &'a [S],
    channel: usize,
    planes: &'a mut [S],
}

impl<S: Element> Job for SpreadInput<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let SpreadInput { g, layout, band, x, channel, planes } = self;
        let [_, eh, ew] = layout.extent;
        let image_len = layout.x_plane / layout.images;
        planes.fill(S::zeroed());
        let [_, ih, iw] = g.input;
        for (phase, plane) in planes.chunks_exact_mut(layout.x_plane).take(layout.planes()).enumerate() {
            let [_, ph, pw] = layout.phases;
            let phase = [phase / (ph * pw), phase / pw % ph, phase % pw];
            // Element q of a plane is input element q * stride + base.
            let base: [isize; 3] = std::array::from_fn(|d| {
                let remainder = phase[d] * g.dilations[d] % g.strides[d];
                (band.start[d] * g.strides[d] + remainder) as isize - g.pads[d] as isize
            });
            let inside = |d: usize, q: usize| {
                let at = (q * g.strides[d]) as isize + base[d];
                (at >= 0 && at < g.input[d] as isize).then_some(at as usize)
            };
            let bound = |least: isize| if least <= 0 { 0 } else { (least as usize).div_ceil(g.strides[2]) };
            let low = bound(-base[2]).min(ew);
            let high = bound(g.input[2] as isize - base[2]).clamp(low, ew);
            let first = (low * g.strides[2]) as isize + base[2];
            for (i, image) in band.images.clone().enumerate() {
                let source = &x[(image * g.ci + channel) * g.input_len()..][..g.input_len()];
                for d in 0..layout.extent[0] {
                    let Some(sd) = inside(0, d) else { continue };
                    for h in 0..eh {
                        let Some(sh) = inside(1, h) else { continue };
                        if low == high {
                            continue;
                        }
                        let row = &source[(sd * ih + sh) * iw + first as usize..];
                        let target = &mut plane[i * image_len + (d * eh + h) * ew..][low..high];
                        if g.strides[2] == 1 {
                            copy(row, target);
                        } else {
                            for (t, &s) in target.iter_mut().zip(row.iter().step_by(g.strides[2])) {
                                *t = s;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where the output gradient of a channel is.
struct Runs {
    /// Distance of channels.
    pitch: usize,
    /// Elements.
    len: usize,
    /// Elements of a row, or all where rows are as far apart as those of the input.
    line: usize,
}

/// Computes the entries from planes.
#[expect(clippy::too_many_arguments, reason = "the operands of one pass")]
fn sample<T: Real, X: Stored<T>, Y: Stored<T>>(
    l: &Launch<'_>,
    g: &Geometry,
    layout: &Layout,
    idx: &[u32],
    x: &[X],
    dy: &[Y],
    runs: &Runs,
    out: &Shared<'_, T>,
    add: bool,
) {
    let (taps, row_len) = (g.taps(), g.ci_group() * g.taps());
    let (ci_group, co_group) = (g.ci_group(), g.co_group());
    let [_, eh, ew] = layout.extent;
    let channel_len = layout.x_channel;
    // Where tap t reads, relative to the planes of its channel.
    let tap_at = |t: usize| {
        let [_, kh, kw] = g.kernel;
        let tap = [t / (kh * kw), t / kw % kh, t % kw];
        let phase: [usize; 3] = std::array::from_fn(|d| tap[d] % geometry::tap_period(g, d));
        let shift: [usize; 3] = std::array::from_fn(|d| tap[d] * g.dilations[d] / g.strides[d]);
        let plane = (phase[0] * layout.phases[1] + phase[1]) * layout.phases[2] + phase[2];
        plane * layout.x_plane + (shift[0] * eh + shift[1]) * ew + shift[2]
    };
    Sampled {
        idx,
        rows: g.co,
        cols: row_len,
        taps,
        left: dy,
        left_at: |row| (row * runs.pitch, row / co_group * ci_group * channel_len),
        right: x,
        tap_at,
        right_pitch: channel_len,
        len: runs.len,
        line: runs.line,
        right_line: ew,
        piece: PIECE,
        add,
        out,
    }
    .run(l.pool);
}
