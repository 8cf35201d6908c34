//! Convolution over up to three spatial dimensions (ONNX Conv).
//!
//! `y[b,o,p] = bias[o] + sum over c, t of w[o,c,t] * x[b, g*ci/groups + c, p*strides + t*dilations - pads]`, where
//! `g` is the group of `o` and elements outside `x` are zero. `x` is `[n, ci, input]`, `w` is `[co, ci/groups,
//! kernel]`, `y` is `[n, co, output]`; spatial dimensions are depth, height, width. Padding at the end follows from
//! the output's extents.
//!
//! Where `work` is given, 3x3 taps in `f32` go through a transform that rounds differently (`winograd`); with weights in bfloat16 it may
//! round what it has transformed to bfloat16. Processors that multiply matrices round the source to bfloat16 instead (`planes`). `x` is in
//! bfloat16 only where the weights are, and is the numbers it holds.

pub(crate) mod correlate;
pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod geometry;
pub(crate) mod planes;
pub(crate) mod pointwise;
pub(crate) mod winograd;

pub use geometry::Geometry;

use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "conv",
    args: &[
        Arg::read("x", Types::Rounded),
        Arg::read("w", Types::Weight),
        Arg::read("bias", Types::Float).or_none(),
        Arg::write("y", Types::Float),
        Arg::write("work", Types::Float).or_none(),
    ],
    scalars: geometry::SCALARS,
    admits: |t| t.agree() && (t.dtype("x") != DType::Bf16 || t.dtype("w") == DType::Bf16),
    flops: |call| Geometry::of(call).flops(),
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Elements that `work` must have; without any the kernel needs no `work`.
pub fn work_len(g: &Geometry) -> usize {
    planes::work_len(g, false).max(winograd::work_len(g, false))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Geometry, KERNEL, planes, winograd, work_len};
    use crate::harness::{Bench, HALVES, assert_close, assert_same_bits, halves, noise};
    use crate::{DType, Scalar};

    /// Scalars of a launch.
    pub(crate) fn scalars(g: &Geometry) -> Vec<Scalar> {
        let three = |v: [usize; 3]| Scalar::Ints(v.iter().map(|&v| v as i64).collect());
        vec![
            Scalar::Int(g.n as i64),
            Scalar::Int(g.groups as i64),
            Scalar::Int(g.ci as i64),
            Scalar::Int(g.co as i64),
            three(g.input),
            three(g.output),
            three(g.kernel),
            three(g.strides),
            three(g.pads),
            three(g.dilations),
        ]
    }

    /// A two-dimensional convolution with the same extents in both directions.
    pub(crate) fn square(n: usize, ci: usize, co: usize, size: usize, kernel: usize, stride: usize) -> Geometry {
        let pad = kernel / 2;
        let out = (size + 2 * pad - kernel) / stride + 1;
        Geometry {
            n,
            groups: 1,
            ci,
            co,
            input: [1, size, size],
            output: [1, out, out],
            kernel: [1, kernel, kernel],
            strides: [1, stride, stride],
            pads: [0, pad, pad],
            dilations: [1, 1, 1],
        }
    }

    /// Shapes that reach every path.
    pub(crate) fn shapes() -> Vec<Geometry> {
        let plain = square(2, 5, 7, 6, 3, 1);
        let one = Geometry {
            input: [1, 1, 29],
            output: [1, 1, 14],
            kernel: [1, 1, 5],
            strides: [1, 1, 2],
            pads: [0, 0, 2],
            dilations: [1, 1, 1],
            ..plain
        };
        vec![
            plain,
            square(1, 3, 9, 7, 1, 1),
            square(2, 8, 8, 9, 1, 2),
            square(1, 6, 9, 11, 3, 2),
            square(1, 6, 8, 10, 3, 2),
            // Sums long enough for pairs: forward of an odd number of terms, in each class of the input gradient, of one tap.
            square(1, 15, 144, 9, 3, 2),
            Geometry { groups: 2, ..square(2, 30, 288, 8, 3, 2) },
            square(1, 20, 144, 9, 1, 2),
            square(1, 144, 20, 9, 1, 2),
            Geometry { groups: 2, ..square(1, 1200, 12, 6, 1, 1) },
            square(1, 70, 14, 17, 3, 1),
            square(1, 9, 130, 8, 3, 1),
            square(1, 6, 3, 40, 3, 1),
            // One channel too many for a transform.
            square(1, 33, 32, 8, 3, 1),
            square(1, 32, 33, 8, 3, 1),
            square(1, 2, 9, 5, 7, 1),
            Geometry { groups: 2, ci: 12, co: 10, ..plain },
            Geometry { groups: 6, ci: 6, co: 6, ..plain },
            Geometry { groups: 3, ci: 6, co: 9, strides: [1, 2, 1], output: [1, 3, 6], ..plain },
            Geometry { groups: 4, ci: 4, co: 8, strides: [1, 2, 3], output: [1, 3, 2], ..plain },
            // Asymmetric padding: less or more at the end than at the beginning.
            Geometry { pads: [0, 0, 2], output: [1, 5, 7], ..plain },
            Geometry { pads: [0, 2, 0], output: [1, 9, 7], ..plain },
            Geometry { dilations: [1, 2, 3], pads: [0, 2, 3], ..plain },
            Geometry { dilations: [1, 2, 1], strides: [1, 2, 2], pads: [0, 2, 1], output: [1, 3, 3], ..plain },
            Geometry { dilations: [1, 3, 4], strides: [1, 2, 6], pads: [0, 3, 4], output: [1, 3, 2], ..plain },
            Geometry {
                dilations: [1, 3, 2],
                strides: [1, 4, 3],
                pads: [0, 3, 2],
                output: [1, 2, 2],
                ci: 4,
                co: 4,
                ..plain
            },
            Geometry { strides: [1, 3, 3], kernel: [1, 2, 2], pads: [0, 0, 0], output: [1, 2, 2], ..plain },
            one,
            Geometry { dilations: [1, 1, 2], output: [1, 1, 13], ..one },
            Geometry {
                input: [4, 5, 6],
                output: [3, 5, 3],
                kernel: [2, 3, 4],
                strides: [1, 1, 2],
                pads: [0, 1, 1],
                ..plain
            },
            Geometry {
                input: [5, 4, 3],
                output: [3, 2, 3],
                kernel: [3, 2, 1],
                strides: [2, 2, 1],
                pads: [1, 0, 0],
                groups: 5,
                ci: 5,
                co: 15,
                ..plain
            },
            Geometry { n: 0, ..plain },
            Geometry { ci: 0, ..plain },
            Geometry { co: 0, ..plain },
            Geometry { input: [1, 0, 6], output: [1, 0, 6], ..plain },
            // Every output element reads only padding.
            Geometry { input: [1, 1, 1], output: [1, 1, 1], kernel: [1, 1, 1], pads: [0, 0, 4], ..plain },
            square(1, 5, 8, 20, 33, 1),
        ]
    }

    /// Shapes that go through the transform: one panel or several, more tasks than one, several chunks of channels, images,
    /// bands, tiles that are cut off, every padding.
    pub(crate) fn transformed() -> Vec<Geometry> {
        let plain = square(1, 48, 32, 16, 3, 1);
        vec![
            plain,
            square(1, 208, 80, 16, 3, 1),
            square(3, 64, 48, 21, 3, 1),
            square(2, 224, 96, 12, 3, 1),
            Geometry { input: [1, 13, 40], output: [1, 11, 38], pads: [0; 3], ..plain },
            Geometry { input: [1, 30, 9], output: [1, 32, 11], pads: [0, 2, 2], ..plain },
            Geometry { input: [1, 17, 18], output: [1, 18, 18], pads: [0, 2, 1], ..plain },
            square(1, 32, 32, 72, 3, 1),
            // With the smaller tiles.
            square(1, 208, 80, 8, 3, 1),
            square(1, 224, 224, 8, 3, 1),
            Geometry { input: [1, 8, 7], output: [1, 7, 8], pads: [0, 1, 2], ..plain },
        ]
    }

    /// Whether operands of this convolution, or of its input gradient, are rounded after a transform, with weights in bfloat16.
    pub(crate) fn rounds(g: &Geometry, backward: bool) -> bool {
        winograd::tests::rounds(g, backward) && !planes::tests::runs(g, backward)
    }

    /// What rounding may do to a convolution or its input gradient with weights that are stored so: a transform's errors follow the size
    /// of the sums and not that of their result.
    pub(crate) fn tolerance(g: &Geometry, backward: bool, stored: DType) -> f64 {
        let terms = (g.ci.max(g.co) * g.taps()) as f64;
        match stored {
            DType::F64 => 1e-12,
            DType::Bf16 if rounds(g, backward) => 5e-3 * terms.sqrt(),
            _ if winograd::work_len(g, backward) > 0 => 2e-5 * terms.sqrt(),
            _ => 2e-5,
        }
    }

    /// Whole numbers from -3 to 3. Of those a 2x2 tile's transformed source has at most 12 and its transformed weights at most 27 quarters,
    /// which bfloat16 holds.
    pub(crate) fn whole(len: usize, seed: u64) -> Vec<f64> {
        noise(len, seed).iter().map(|v| (3.0 * v).round()).collect()
    }

    /// Calls `f(x, w, y)` with the indices of every product of the convolution.
    pub(crate) fn each(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
        let [id, ih, iw] = g.input;
        let [od, oh, ow] = g.output;
        let [kd, kh, kw] = g.kernel;
        for b in 0..g.n {
            for o in 0..g.co {
                for c in 0..g.ci_group() {
                    let x_plane = b * g.ci + o / g.co_group() * g.ci_group() + c;
                    for p in 0..od * oh * ow {
                        let p3 = [p / (oh * ow), p / ow % oh, p % ow];
                        for t in 0..kd * kh * kw {
                            let t3 = [t / (kh * kw), t / kw % kh, t % kw];
                            let at: [isize; 3] = std::array::from_fn(|d| {
                                (p3[d] * g.strides[d] + t3[d] * g.dilations[d]) as isize - g.pads[d] as isize
                            });
                            if (0..3).all(|d| at[d] >= 0 && at[d] < g.input[d] as isize) {
                                let x = ((x_plane * id + at[0] as usize) * ih + at[1] as usize) * iw + at[2] as usize;
                                let w = (o * g.ci_group() + c) * kd * kh * kw + t;
                                f(x, w, (b * g.co + o) * od * oh * ow + p);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_source_in_bfloat16_is_the_numbers_it_holds() {
        for g in shapes().into_iter().chain(transformed()) {
            let (x, w) = (halves(g.n * g.ci * g.input_len(), 1), halves(g.co * g.ci_group() * g.taps(), 2));
            let bias = noise(g.co, 3);
            let of = |read: DType| {
                let mut bench = Bench::new(&KERNEL, scalars(&g));
                bench.on_cpu_alone();
                bench.float("x", read, &x);
                bench.float("w", DType::Bf16, &w);
                bench.float("bias", DType::F32, &bias);
                bench.float("y", DType::F32, &vec![f64::NAN; g.n * g.co * g.output_len()]);
                bench.float("work", DType::F32, &vec![f64::NAN; work_len(&g)]);
                bench.run()["y"].clone()
            };
            assert_same_bits(&of(DType::Bf16), of(DType::F32).into_iter());
        }
    }

    #[test]
    fn matches_a_naive_loop() {
        assert!(transformed().iter().all(|g| work_len(g) > 0));
        for g in shapes().into_iter().chain(transformed()) {
            let x = halves(g.n * g.ci * g.input_len(), 1);
            // Values that half precision holds too.
            let w = halves(g.co * g.ci_group() * g.taps(), 2);
            let bias = noise(g.co, 3);
            let mut plain = vec![0.0; g.n * g.co * g.output_len()];
            each(&g, |xi, wi, yi| plain[yi] += x[xi] * w[wi]);
            let same = [DType::F32, DType::F64].map(|dtype| (dtype, dtype, dtype));
            let weights = HALVES.map(|half| (DType::F32, half, DType::F32));
            let both = (DType::Bf16, DType::Bf16, DType::F32);
            for (read, stored, dtype) in same.into_iter().chain(weights).chain([both]) {
                for with_bias in [false, true] {
                    let mut bench = Bench::new(&KERNEL, scalars(&g));
                    bench.float("x", read, &x);
                    bench.float("w", stored, &w);
                    if with_bias {
                        bench.float("bias", dtype, &bias);
                    }
                    bench.float("y", dtype, &vec![f64::NAN; plain.len()]);
                    bench.float("work", dtype, &vec![f64::NAN; work_len(&g)]);
                    let mut want = plain.clone();
                    if with_bias {
                        for (i, v) in want.iter_mut().enumerate() {
                            *v += bias[i / g.output_len() % g.co];
                        }
                    }
                    if stored == DType::Bf16 && rounds(&g, false) {
                        bench.cuda_tolerance(tolerance(&g, false, stored));
                    }
                    assert_close(&bench.run()["y"], &want, tolerance(&g, false, stored));
                }
            }
        }
    }
}
