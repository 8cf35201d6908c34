//! Gradient of a convolution's weight at its trained entries only.
//!
//! Entry `k` of `idx` is the flat position of `w[o,c,t]`; positions ascend. `dp[k] = sum over b, p of dy[b,o,p] *
//! x[b, g*ci/groups + c, p*strides + t*dilations - pads]`, where `g` is the group of `o`. The dense gradient does
//! not exist; cost grows with the number of entries. `dp` may be longer than `idx`; what is beyond is left alone.
//! Shapes are those of the convolution. Operands in bfloat16 are widened: sums are those of the numbers they hold.

mod cpu;
mod cuda;

use crate::conv::{Geometry, geometry};
use crate::simd::LANES;
use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "masked_conv_grad",
    args: &[
        Arg::read("x", Types::Rounded),
        Arg::read("dy", Types::Rounded),
        Arg::read("idx", Types::Only(DType::U32)),
        Arg::write("dp", Types::Float),
        Arg::write("work", Types::Float),
    ],
    scalars: geometry::SCALARS,
    admits: |t| t.agree(),
    flops: |call| {
        let g = Geometry::of(call);
        2 * call.len("idx") as u64 * (g.n * g.output_len()) as u64
    },
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Elements that `work` holds at most, unless one row of outputs takes more.
const WORK: usize = 4 << 20;

/// Layout of `work`: planes of the output gradient, then planes of the input, for a band of images and rows.
///
/// Both have the pitches of the padded input, divided by the strides, so that a tap reads the input planes at a constant
/// distance from the output element. Input elements with different remainders modulo the strides have different planes.
/// What the output planes have between their rows is zero. Where those rows are whole vectors and lie in one depth the
/// output gradient is read in place.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Images of a band.
    images: usize,
    /// Output depths and heights of a band, and the output width.
    band: [usize; 3],
    /// Extents of an input plane for one image.
    extent: [usize; 3],
    /// Remainders that taps have, in each dimension.
    phases: [usize; 3],
    /// Elements of an output plane, none if it is read in place; they are rounded up, and input channels have as many more elements.
    dy_plane: usize,
    /// Elements of an input plane.
    x_plane: usize,
    /// Elements of the planes of an input channel.
    x_channel: usize,
    /// Whether both operands already have this layout, one image at a time.
    in_place: bool,
    /// Whether rows of the output gradient are read in place, those of one image at a time.
    dy_in_place: bool,
}

impl Layout {
    fn new(g: &Geometry) -> Layout {
        let reach: [usize; 3] =
            std::array::from_fn(|d| (g.kernel[d].max(1) - 1) * g.dilations[d] / g.strides[d].max(1));
        let phases: [usize; 3] = std::array::from_fn(|d| g.kernel[d].min(geometry::tap_period(g, d)));
        let at = |images: usize, depth: usize, height: usize| {
            let band = [depth, height, g.output[2]];
            let extent: [usize; 3] = std::array::from_fn(|d| band[d] + reach[d]);
            let x_plane = images * extent.iter().product::<usize>();
            let in_place = g.taps() == 1 && g.input == g.output && g.strides == [1; 3] && g.pads == [0; 3];
            let missing: usize = (0..3).map(|d| reach[d] * extent[d + 1..].iter().product::<usize>()).sum();
            let run = x_plane.saturating_sub(missing);
            let dy_in_place = in_place || g.output[0] == 1 && g.output[2].is_multiple_of(LANES);
            let dy_plane = if dy_in_place { 0 } else { run.next_multiple_of(LANES) };
            let x_channel = x_plane * phases.iter().product::<usize>() + dy_plane.saturating_sub(run);
            Layout { images, band, extent, phases, dy_plane, x_plane, x_channel, in_place, dy_in_place }
        };
        let [depth, height, _] = g.output;
        let fits = |l: &Layout| l.len(g) <= WORK;
        let whole = at(1, depth, height);
        if whole.in_place || g.output_len() == 0 {
            return whole;
        }
        if fits(&whole) {
            let images = if whole.dy_in_place { 1 } else { (WORK / whole.len(g).max(1)).clamp(1, g.n.max(1)) };
            return at(images, depth, height);
        }
        // Lengths grow linearly with the extent of a band, apart from what taps reach beyond it.
        let most = |extent: usize, at: &dyn Fn(usize) -> Layout| {
            let (mut low, mut high) = (1, extent);
            while low < high {
                let middle = (low + high).div_ceil(2);
                if fits(&at(middle)) { low = middle } else { high = middle - 1 }
            }
            low
        };
        let slab = at(1, 1, height);
        if fits(&slab) {
            return at(1, most(depth, &|d| at(1, d, height)), height);
        }
        at(1, 1, most(height, &|h| at(1, 1, h)))
    }

    /// Planes of an input channel.
    fn planes(&self) -> usize {
        self.phases.iter().product()
    }

    fn len(&self, g: &Geometry) -> usize {
        g.co * self.dy_plane + g.ci * self.x_channel
    }
}

/// Elements that `work` must have.
pub fn work_len(geometry: &Geometry) -> usize {
    let layout = Layout::new(geometry);
    if layout.in_place { 1 } else { layout.len(geometry).max(1) }
}

#[cfg(test)]
mod tests {
    use super::{KERNEL, Layout, work_len};
    use crate::DType;
    use crate::conv::Geometry;
    use crate::conv::tests::{each, scalars, shapes, square};
    use crate::harness::{Bench, assert_close, assert_same_bits, halves, noise, places};

    fn check(g: &Geometry, densities: &[f64]) {
        let x = noise(g.n * g.ci * g.input_len(), 1);
        let dy = noise(g.n * g.co * g.output_len(), 2);
        let mut dense = vec![0.0; g.co * g.ci_group() * g.taps()];
        each(g, |xi, wi, yi| dense[wi] += x[xi] * dy[yi]);
        for &density in densities {
            let idx = places(dense.len(), density);
            let mut want: Vec<f64> = idx.iter().map(|&i| dense[i as usize]).collect();
            want.extend([7.0, 7.0]);
            for dtype in [DType::F32, DType::F64] {
                let mut bench = Bench::new(&KERNEL, scalars(g));
                // A GPU goes the same way for a third of the entries.
                if density == 1.0 {
                    bench.on_cpu_alone();
                }
                bench.float("x", dtype, &x);
                bench.float("dy", dtype, &dy);
                bench.index("idx", &idx);
                bench.float("dp", dtype, &vec![7.0; idx.len() + 2]);
                bench.float("work", dtype, &vec![f64::NAN; work_len(g)]);
                // Rounding errors of a sum grow with the square root of its length.
                let terms = ((g.n * g.output_len()) as f64).sqrt();
                let tolerance = if dtype == DType::F32 { 2e-5_f64.max(5e-7 * terms) } else { 1e-12 * (1.0 + terms) };
                assert_close(&bench.run()["dp"], &want, tolerance);
            }
        }
    }

    /// Every path, and rows of whole vectors: several images, strides, distances between taps, several pieces.
    fn all() -> Vec<Geometry> {
        let mut all = shapes();
        let dilated = Geometry { dilations: [1, 2, 3], pads: [0, 2, 3], ..square(1, 4, 3, 16, 3, 1) };
        let deep = Geometry { input: [3, 5, 16], output: [1, 5, 16], kernel: [3, 3, 3], ..square(2, 3, 4, 16, 3, 1) };
        let groups = Geometry { groups: 2, ..square(2, 4, 6, 16, 3, 1) };
        // The last piece is shorter.
        let uneven = Geometry { input: [1, 43, 48], output: [1, 43, 48], ..square(1, 3, 4, 48, 3, 1) };
        all.extend([square(2, 3, 4, 16, 3, 1), square(1, 3, 4, 32, 3, 2), uneven, groups, dilated, deep]);
        all
    }

    #[test]
    fn is_the_dense_gradient_at_the_entries() {
        for g in all() {
            check(&g, &[0.0, 0.02, 0.3, 1.0]);
        }
        check(&Geometry { n: 5, ..square(1, 3, 4, 5, 3, 1) }, &[0.1]);
    }

    #[test]
    fn an_entry_is_the_same_whatever_else_trains() {
        for g in all() {
            let x = noise(g.n * g.ci * g.input_len(), 1);
            let dy = noise(g.n * g.co * g.output_len(), 2);
            let at = |idx: &[u32]| {
                let mut bench = Bench::new(&KERNEL, scalars(&g));
                bench.on_cpu_alone();
                bench.float("x", DType::F32, &x);
                bench.float("dy", DType::F32, &dy);
                bench.index("idx", idx);
                bench.float("dp", DType::F32, &vec![0.0; idx.len()]);
                bench.float("work", DType::F32, &vec![f64::NAN; work_len(&g)]);
                bench.run()["dp"].clone()
            };
            let len = g.co * g.ci_group() * g.taps();
            let dense = at(&places(len, 1.0));
            for density in [0.01, 0.1, 0.5] {
                let idx = places(len, density);
                assert_same_bits(&at(&idx), idx.iter().map(|&i| dense[i as usize]));
            }
        }
    }

    #[test]
    fn operands_in_bfloat16_are_the_numbers_they_hold() {
        for (i, g) in all().into_iter().enumerate() {
            let x = halves(g.n * g.ci * g.input_len(), 1);
            let dy = halves(g.n * g.co * g.output_len(), 2);
            for density in [0.02, 0.5] {
                let idx = places(g.co * g.ci_group() * g.taps(), density);
                let at = |x_type: DType, dy_type: DType| {
                    let mut bench = Bench::new(&KERNEL, scalars(&g));
                    // A GPU goes the same ways for some of the shapes.
                    if [x_type, dy_type] == [DType::F32; 2] || i % 4 > 0 {
                        bench.on_cpu_alone();
                    }
                    bench.float("x", x_type, &x);
                    bench.float("dy", dy_type, &dy);
                    bench.index("idx", &idx);
                    bench.float("dp", DType::F32, &vec![0.0; idx.len()]);
                    bench.float("work", DType::F32, &vec![f64::NAN; work_len(&g)]);
                    bench.run()["dp"].clone()
                };
                let want = at(DType::F32, DType::F32);
                for types in [[DType::Bf16; 2], [DType::Bf16, DType::F32], [DType::F32, DType::Bf16]] {
                    assert_same_bits(&at(types[0], types[1]), want.iter().copied());
                }
            }
        }
    }

    #[test]
    fn many_columns_are_parts() {
        check(&square(1, 200, 2, 32, 3, 1), &[1.0]);
        check(&square(1, 200, 2, 32, 1, 1), &[1.0]);
        // A channel has more taps than a part has columns.
        let long = Geometry {
            input: [1, 1, 17_003],
            output: [1, 1, 4],
            kernel: [1, 1, 17_000],
            pads: [0; 3],
            ..square(1, 2, 3, 8, 3, 1)
        };
        check(&long, &[1.0]);
    }

    #[test]
    fn work_is_cut_into_bands() {
        let tall = Geometry {
            input: [1, 50, 45_000],
            output: [1, 50, 45_000],
            kernel: [1, 3, 1],
            pads: [0, 1, 0],
            ..square(1, 1, 2, 8, 3, 1)
        };
        assert!(Layout::new(&tall).band[1] < 50);
        check(&tall, &[0.5]);
        let whole = Geometry { input: [1, 50, 90_000], output: [1, 50, 90_000], ..tall };
        assert!(Layout::new(&whole).dy_in_place && Layout::new(&whole).band[1] < 50);
        check(&whole, &[0.5]);
        let deep =
            Geometry { input: [50, 1, 45_000], output: [50, 1, 45_000], kernel: [3, 1, 1], pads: [1, 0, 0], ..tall };
        assert!(Layout::new(&deep).band[0] < 50);
        check(&deep, &[0.5]);
    }
}
