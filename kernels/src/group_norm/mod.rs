//! `y = (x - mean) * rstd * scale + bias` with statistics of groups of channels (ONNX GroupNormalization,
//! InstanceNormalization; Wu and He, "Group Normalization").
//!
//! `x` and `y` are `[n, channels, inner]`, `scale` and `bias` `[channels]` and 1 and 0 where absent. A group is
//! `channels / groups` neighbouring channels of one of the `n`; `mean` and `rstd = 1 / sqrt(variance + epsilon)` are
//! `[n, groups]`. The variance is that of the whole group, without Bessel's correction. `x` and `y`
//! may be rounded to bfloat16.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, Call, Kernel, ScalarKind, Types};

/// Scalars of this kernel and of its gradients.
pub(crate) const SCALARS: &[(&str, ScalarKind)] = &[
    ("n", ScalarKind::Int),
    ("channels", ScalarKind::Int),
    ("groups", ScalarKind::Int),
    ("inner", ScalarKind::Int),
    ("epsilon", ScalarKind::Float),
];

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "group_norm",
    args: &[
        Arg::read("x", Types::Rounded),
        Arg::read("scale", Types::Float).or_none(),
        Arg::read("bias", Types::Float).or_none(),
        Arg::write("y", Types::Rounded),
        Arg::write("mean", Types::Float),
        Arg::write("rstd", Types::Float),
    ],
    scalars: SCALARS,
    admits: |t| t.agree(),
    // One for the mean, three for the variance, three for the result.
    flops: |call| 7 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// The scalars.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) n: usize,
    pub(crate) channels: usize,
    pub(crate) groups: usize,
    pub(crate) inner: usize,
}

impl Shape {
    pub(crate) fn of(call: &Call<'_>) -> Shape {
        Shape { n: call.int("n"), channels: call.int("channels"), groups: call.int("groups"), inner: call.int("inner") }
    }

    /// Channels of a group.
    pub(crate) fn depth(self) -> usize {
        self.channels / self.groups.max(1)
    }

    /// Elements of a group.
    pub(crate) fn group(self) -> usize {
        self.depth() * self.inner
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::KERNEL;
    use crate::harness::{Bench, assert_close, noise};
    use crate::{DType, Scalar};

    pub(crate) const EPSILON: f64 = 1e-3;

    /// A problem with random operands.
    pub(crate) struct Case {
        /// n, channels, groups, inner.
        pub(crate) sizes: [usize; 4],
        pub(crate) x: Vec<f64>,
        pub(crate) scale: Option<Vec<f64>>,
        pub(crate) bias: Option<Vec<f64>>,
    }

    /// What the forward pass gives.
    pub(crate) struct Solution {
        pub(crate) y: Vec<f64>,
        pub(crate) mean: Vec<f64>,
        pub(crate) rstd: Vec<f64>,
    }

    impl Case {
        pub(crate) fn new(sizes: [usize; 4], scale: bool, bias: bool) -> Case {
            let [n, channels, _, inner] = sizes;
            Case {
                sizes,
                x: noise(n * channels * inner, 1).iter().map(|x| x + 0.5).collect(),
                scale: scale.then(|| noise(channels, 2)),
                bias: bias.then(|| noise(channels, 3)),
            }
        }

        pub(crate) fn scalars(&self) -> Vec<Scalar> {
            let mut scalars: Vec<Scalar> = self.sizes.iter().map(|&s| Scalar::Int(s as i64)).collect();
            scalars.push(Scalar::Float(EPSILON));
            scalars
        }

        /// The group and the channel that element `at` belongs to.
        pub(crate) fn place(&self, at: usize) -> (usize, usize) {
            let [_, channels, groups, inner] = self.sizes;
            let (image, channel) = (at / inner / channels, at / inner % channels);
            (image * groups + channel / (channels / groups), channel)
        }

        pub(crate) fn solve(&self) -> Solution {
            let [n, channels, groups, inner] = self.sizes;
            let size = (channels / groups * inner) as f64;
            let (mut mean, mut var) = (vec![0.0; n * groups], vec![0.0; n * groups]);
            for (at, x) in self.x.iter().enumerate() {
                mean[self.place(at).0] += x / size;
            }
            for (at, x) in self.x.iter().enumerate() {
                let group = self.place(at).0;
                var[group] += (x - mean[group]).powi(2) / size;
            }
            let rstd: Vec<f64> = var.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
            let y = self.x.iter().enumerate().map(|(at, x)| {
                let (group, channel) = self.place(at);
                let scale = self.scale.as_ref().map_or(1.0, |s| s[channel]);
                let bias = self.bias.as_ref().map_or(0.0, |b| b[channel]);
                (x - mean[group]) * rstd[group] * scale + bias
            });
            Solution { y: y.collect(), mean, rstd }
        }
    }

    /// Odd sizes, one group, a group for each channel, operands absent, nothing at all.
    pub(crate) fn cases() -> Vec<Case> {
        vec![
            Case::new([1, 1, 1, 1], true, true),
            Case::new([2, 6, 3, 35], true, true),
            Case::new([2, 6, 3, 35], true, false),
            Case::new([2, 6, 3, 35], false, true),
            Case::new([3, 4, 1, 17], false, false),
            Case::new([2, 5, 5, 16], true, true),
            Case::new([3, 8, 4, 1], true, true),
            Case::new([2, 64, 32, 640], true, true),
            Case::new([1, 2, 1, 12_345], true, true),
            Case::new([0, 4, 2, 3], true, true),
        ]
    }

    fn bench(case: &Case, dtype: DType) -> Bench {
        let [n, _, groups, _] = case.sizes;
        let mut bench = Bench::new(&KERNEL, case.scalars());
        bench.float("x", dtype, &case.x);
        for (name, value) in [("scale", &case.scale), ("bias", &case.bias)] {
            if let Some(value) = value {
                bench.float(name, dtype, value);
            }
        }
        bench.float("y", dtype, &vec![f64::NAN; case.x.len()]);
        bench.float("mean", dtype, &vec![f64::NAN; n * groups]);
        bench.float("rstd", dtype, &vec![f64::NAN; n * groups]);
        bench
    }

    #[test]
    fn operand_and_result_may_be_rounded() {
        cases().iter().for_each(|case| {
            [&["x"][..], &["y"], &["x", "y"]].iter().for_each(|names| bench(case, DType::F32).assert_rounded(names));
        });
    }

    fn run(case: &Case, dtype: DType) -> Solution {
        let mut out = bench(case, dtype).run();
        let mut take = |name| out.remove(name).expect("an output");
        Solution { y: take("y"), mean: take("mean"), rstd: take("rstd") }
    }

    #[test]
    fn matches_a_naive_loop() {
        for case in cases() {
            let want = case.solve();
            for (dtype, tolerance) in [(DType::F32, 4e-7), (DType::F64, 1e-12)] {
                let got = run(&case, dtype);
                assert_close(&got.y, &want.y, tolerance);
                assert_close(&got.mean, &want.mean, tolerance);
                assert_close(&got.rstd, &want.rstd, tolerance);
            }
        }
    }

    #[test]
    fn a_large_offset_leaves_the_variance_accurate() {
        let mut case = Case::new([1, 4, 2, 1000], true, true);
        case.x = case.x.iter().map(|x| f64::from((x * 0.5 + 1000.0) as f32)).collect();
        let (got, want) = (run(&case, DType::F32), case.solve());
        assert_close(&got.rstd, &want.rstd, 2e-7);
        assert_close(&got.y, &want.y, 4e-7);
    }

    #[test]
    fn groups_without_elements_have_statistics() {
        let case = Case::new([2, 4, 2, 0], true, true);
        let got = run(&case, DType::F32);
        assert_eq!(got.mean, [0.0; 4]);
        assert_close(&got.rstd, &[1.0 / EPSILON.sqrt(); 4], 1e-6);
    }
}
