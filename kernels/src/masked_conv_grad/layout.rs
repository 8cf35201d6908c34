//! How a convolution's operands lie when each trained entry is a contiguous dot product.

use crate::conv::{Geometry, geometry};
use crate::sampled::{COLUMNS, UNIT, piece};
use crate::simd::LANES;

/// Output elements of a band at most, about.
const BAND: usize = 1024;
/// Elements of a row that is short, at most.
const SHORT: usize = 16;

/// Planes of the input, for a band of the output: a box of one image, or several small images.
///
/// Planes have the pitches of the padded input, divided by the strides, so that a tap reads them at a constant distance from the output
/// element. Input elements with different remainders modulo the strides have different planes. Where rows are short, each of a kernel's
/// columns has planes of its own instead, whose rows are as long as the output's, so that nothing lies between rows. Where those of a
/// channel would be too large, each tap has a plane of its own that holds what it reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Images of a band.
    pub(super) images: usize,
    /// Output depths, heights and widths of a band.
    pub(super) band: [usize; 3],
    /// Extents of a plane for one image.
    pub(super) extent: [usize; 3],
    /// Planes that lie together, in each dimension.
    pub(super) phases: [usize; 3],
    /// Whether a plane is read by several taps.
    pub(super) shared: bool,
    /// Elements of a plane, whole vectors.
    pub(super) plane: usize,
    /// Elements of a channel's planes, or of a tap's: those of the planes, and a vector more, because runs of the output gradient reach
    /// beyond them by less than one.
    pub(super) unit: usize,
    /// Elements of the output gradient, with what is zero between its rows and behind them.
    pub(super) run: usize,
    /// Whether rows of the output gradient are whole vectors, or nothing lies between them, and they are read in place.
    pub(super) in_place: bool,
}

/// A band of the output.
#[derive(Clone, Copy)]
pub(super) struct Band {
    /// Its first image.
    pub(super) image: usize,
    /// Its images, as many as others have or fewer.
    pub(super) images: usize,
    /// Its first output element.
    pub(super) start: [usize; 3],
    /// Its extents, those of others or shorter.
    pub(super) extents: [usize; 3],
}

/// Parts of `extent` that are about as long as each other, at most `most` and at least one.
fn even(extent: usize, most: usize) -> usize {
    extent.div_ceil(extent.div_ceil(most.max(1)).max(1)).max(1)
}

impl Layout {
    /// The layout, whatever the types of the operands are.
    pub(super) fn new(g: &Geometry) -> Layout {
        let [depth, height, width] = g.output;
        let columns = if width > BAND { piece(width, BAND) } else { width };
        let lines = if columns < width { 1 } else { even(height, BAND / width) };
        let slabs = if lines < height { 1 } else { even(depth, BAND / (height * width)) };
        let whole = slabs == 1 && width.is_multiple_of(LANES);
        let images = if whole || slabs < depth { 1 } else { (BAND / (depth * height * width)).clamp(1, g.n.max(1)) };
        let in_place = whole || slabs == 1 && images == 1 && short_rows(g);
        let band = [slabs, lines, columns];
        let reach: [usize; 3] =
            std::array::from_fn(|d| (g.kernel[d].max(1) - 1) * g.dilations[d] / g.strides[d].max(1));
        let at = |shared: bool| {
            let periods = periods(g);
            let mut reach = if shared { reach } else { [0; 3] };
            if short_rows(g) {
                reach[2] = 0;
            }
            let phases = std::array::from_fn(|d| if shared { g.kernel[d].min(periods[d]) } else { 1 });
            let extent: [usize; 3] = std::array::from_fn(|d| band[d] + reach[d]);
            let elements = images * extent.iter().product::<usize>();
            let plane = elements.next_multiple_of(LANES);
            let missing: usize = (0..3).map(|d| reach[d] * extent[d + 1..].iter().product::<usize>()).sum();
            let used = elements.saturating_sub(missing);
            let run = used.next_multiple_of(LANES);
            let unit = plane.saturating_mul(phases.iter().product()).saturating_add(LANES);
            Layout { images, band, extent, phases, shared, plane, unit, run, in_place }
        };
        // Products of longer reaches may be no numbers.
        let most = UNIT / size_of::<f64>();
        let near = g.taps() <= COLUMNS && reach.iter().all(|r| *r <= most);
        near.then(|| at(true)).filter(|shared| shared.unit <= most).unwrap_or_else(|| at(false))
    }

    /// Neighbouring columns whose planes lie together.
    pub(super) fn columns(&self, g: &Geometry) -> usize {
        if self.shared { g.taps() } else { 1 }
    }

    /// The bands.
    pub(super) fn bands(&self, g: &Geometry) -> impl Iterator<Item = Band> {
        let Layout { images, band, .. } = *self;
        let (n, extents) = (g.n, g.output);
        let counts: [usize; 3] = std::array::from_fn(|d| extents[d].div_ceil(band[d]));
        let boxes: usize = counts.iter().product();
        (0..n.div_ceil(images) * boxes).map(move |i| {
            let (image, at) = (i / boxes, position(i % boxes, counts));
            let start: [usize; 3] = std::array::from_fn(|d| at[d] * band[d]);
            Band {
                image: image * images,
                images: images.min(n - image * images),
                start,
                extents: std::array::from_fn(|d| band[d].min(extents[d] - start[d])),
            }
        })
    }

    /// Input element that element 0 of a plane is, in dimension `d`, for the band that begins at `start`.
    pub(super) fn base(&self, g: &Geometry, d: usize, phase: usize, start: usize) -> isize {
        let offset = phase * g.dilations[d];
        let offset = if self.shared && !(d == 2 && short_rows(g)) { offset % g.strides[d] } else { offset };
        (start * g.strides[d] + offset) as isize - g.pads[d] as isize
    }

    /// Where tap `t` reads, relative to the planes that lie together.
    pub(super) fn tap(&self, g: &Geometry, t: usize) -> usize {
        if !self.shared {
            return 0;
        }
        let tap = position(t, g.kernel);
        let periods = periods(g);
        let phase: [usize; 3] = std::array::from_fn(|d| tap[d] % periods[d]);
        let mut shift: [usize; 3] = std::array::from_fn(|d| tap[d] * g.dilations[d] / g.strides[d]);
        if short_rows(g) {
            shift[2] = 0;
        }
        let [_, eh, ew] = self.extent;
        let plane = (phase[0] * self.phases[1] + phase[1]) * self.phases[2] + phase[2];
        plane * self.plane + (shift[0] * eh + shift[1]) * ew + shift[2]
    }
}

/// Whether each of a kernel's columns has planes of its own.
fn short_rows(g: &Geometry) -> bool {
    g.output[2] <= SHORT
}

/// Taps that are this far apart in each dimension read the same planes.
fn periods(g: &Geometry) -> [usize; 3] {
    std::array::from_fn(|d| if d == 2 && short_rows(g) { g.kernel[d].max(1) } else { geometry::tap_period(g, d) })
}

/// Coordinates of element `at` of a box.
pub(super) fn position(at: usize, extents: [usize; 3]) -> [usize; 3] {
    let [_, h, w] = extents;
    [at / (h * w), at / w % h, at % w]
}
