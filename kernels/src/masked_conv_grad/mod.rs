//! Gradient of a convolution's weight at its trained entries only.
//!
//! Entry `k` of `idx` is the flat position of `w[o,c,t]`; positions ascend. `dp[k] = sum over b, p of dy[b,o,p] *
//! x[b, g*ci/groups + c, p*strides + t*dilations - pads]`, where `g` is the group of `o`. The dense gradient does
//! not exist; cost grows with the number of entries. `dp` may be longer than `idx`; what is beyond is left alone.
//! Shapes are those of the convolution. Operands in bfloat16 are widened: sums are those of the numbers they hold.

mod cpu;
mod cuda;
mod layout;

use crate::conv::{Geometry, geometry};
use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "masked_conv_grad",
    args: &[
        Arg::read("x", Types::Rounded),
        Arg::read("dy", Types::Rounded),
        Arg::read("idx", Types::Only(DType::U32)),
        Arg::write("dp", Types::Float),
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

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use super::layout::Layout;
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
            for density in [0.003, 0.02, 0.5] {
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

    /// A convolution along one dimension only.
    fn along(d: usize, input: [usize; 3], taps: usize, dilation: usize) -> Geometry {
        let mut g = Geometry { input, kernel: [1; 3], pads: [0; 3], ..square(1, 2, 3, 8, 3, 1) };
        (g.kernel[d], g.dilations[d]) = (taps, dilation);
        g.output = std::array::from_fn(|d| input[d] - (g.kernel[d] - 1) * g.dilations[d]);
        g
    }

    #[test]
    fn the_output_is_cut_into_bands() {
        for (d, input, bands) in [
            (2, [1, 1, 5000], [1, 1, 1008]),
            (2, [1, 2, 5010], [1, 1, 1008]),
            (1, [1, 70, 90], [1, 10, 90]),
            (1, [1, 70, 96], [1, 10, 96]),
            (0, [9, 20, 20], [2, 20, 20]),
            (0, [9, 16, 16], [4, 16, 16]),
        ] {
            let g = along(d, input, 3, 1);
            assert_eq!(Layout::new(&g).band, bands, "{g:?}");
            check(&g, &[0.5]);
        }
        let short = along(1, [1, 300, 10], 3, 1);
        let strided =
            Geometry { strides: [1, 2, 2], kernel: [1, 3, 3], input: [1, 300, 20], output: [1, 149, 9], ..short };
        for g in [short, strided] {
            assert_eq!(Layout::new(&g).band[1..], [[100, 10], [75, 9]][usize::from(g.output[2] == 9)]);
            check(&g, &[0.5]);
            check(&Geometry { n: 2, ..g }, &[0.5]);
        }
    }

    #[test]
    fn taps_that_are_far_apart_have_planes_of_their_own() {
        for g in [
            along(2, [1, 1, 90_000], 3, 40_000),
            along(2, [1, 1, 90_017], 3, 40_000),
            along(1, [1, 2100, 32], 3, 1000),
            // Columns of the kernel have so many planes of short rows.
            along(2, [1, 64, 48], 33, 1),
            // Planes that taps shared would have no number of elements.
            Geometry {
                dilations: [1, (1 << 31) - 4, (1 << 31) - 4],
                pads: [0, (1 << 31) - 4, (1 << 31) - 4],
                ..square(1, 2, 3, 8, 3, 1)
            },
            Geometry { n: 3, ..along(2, [1, 1, 90_007], 2, 90_000) },
            Geometry { groups: 2, ci: 4, co: 6, n: 2, ..along(2, [1, 1, 90_007], 2, 90_000) },
        ] {
            assert!(!Layout::new(&g).shared, "{g:?}");
            check(&g, &[0.3, 1.0]);
        }
    }

    #[test]
    fn many_groups_share_a_task() {
        let depthwise = |channels: usize| Geometry { groups: channels, ..square(1, channels, channels, 32, 3, 1) };
        check(&depthwise(40), &[0.1]);
        check(&depthwise(1200), &[1.0]);
        check(&Geometry { groups: 150, ..square(1, 300, 600, 8, 3, 1) }, &[0.05]);
    }
}
