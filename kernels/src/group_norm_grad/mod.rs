//! Gradient of group normalisation with respect to its input.
//!
//! With `g = dy * scale` and `h = (x - mean) * rstd`: `dx = rstd * (g - mean(g) - h * mean(g * h))`, the means
//! taken over the group. Shapes are those of group_norm. `x` may be rounded to bfloat16.

mod cpu;
mod cuda;

use crate::group_norm::SCALARS;
use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "group_norm_grad",
    args: &[
        Arg::read("x", Types::Rounded),
        Arg::read("dy", Types::Float),
        Arg::read("scale", Types::Float).or_none(),
        Arg::read("mean", Types::Float),
        Arg::read("rstd", Types::Float),
        Arg::write("dx", Types::Float),
    ],
    scalars: SCALARS,
    admits: |t| t.agree(),
    // Four for the sums, five for the result.
    flops: |call| 9 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::group_norm::tests::{Case, cases};
    use crate::harness::{Bench, assert_close, noise};

    fn bench(case: &Case, dy: &[f64], dtype: DType) -> Bench {
        let solution = case.solve();
        let mut bench = Bench::new(&KERNEL, case.scalars());
        bench.float("x", dtype, &case.x);
        bench.float("dy", dtype, dy);
        if let Some(scale) = &case.scale {
            bench.float("scale", dtype, scale);
        }
        bench.float("mean", dtype, &solution.mean);
        bench.float("rstd", dtype, &solution.rstd);
        bench.float("dx", dtype, &vec![f64::NAN; dy.len()]);
        bench
    }

    fn run(case: &Case, dy: &[f64], dtype: DType) -> Vec<f64> {
        bench(case, dy, dtype).run().remove("dx").expect("an output")
    }

    #[test]
    fn the_operand_may_be_rounded() {
        for case in cases() {
            bench(&case, &noise(case.x.len(), 5), DType::F32).assert_rounded(&["x"]);
        }
    }

    #[test]
    fn matches_a_naive_loop() {
        for case in cases() {
            let [n, channels, groups, inner] = case.sizes;
            let size = (channels / groups * inner) as f64;
            let solution = case.solve();
            let dy = noise(case.x.len(), 5);
            let (mut plain, mut tilted) = (vec![0.0; n * groups], vec![0.0; n * groups]);
            let at = |i: usize| {
                let (group, channel) = case.place(i);
                let g = dy[i] * case.scale.as_ref().map_or(1.0, |s| s[channel]);
                (group, g, (case.x[i] - solution.mean[group]) * solution.rstd[group])
            };
            for i in 0..dy.len() {
                let (group, g, h) = at(i);
                plain[group] += g / size;
                tilted[group] += g * h / size;
            }
            let want: Vec<f64> = (0..dy.len())
                .map(|i| {
                    let (group, g, h) = at(i);
                    solution.rstd[group] * (g - plain[group] - h * tilted[group])
                })
                .collect();
            assert_close(&run(&case, &dy, DType::F32), &want, 1e-6);
            assert_close(&run(&case, &dy, DType::F64), &want, 1e-12);
        }
    }

    #[test]
    fn matches_central_differences() {
        for sizes in [[2, 6, 3, 7], [1, 4, 1, 9], [2, 3, 3, 18]] {
            let mut case = Case::new(sizes, true, true);
            let dy = noise(case.x.len(), 5);
            let got = run(&case, &dy, DType::F64);
            let step = 1e-5;
            for (at, got) in got.into_iter().enumerate() {
                let mut loss = |by: f64| {
                    let old = case.x[at];
                    case.x[at] += by;
                    let loss: f64 = case.solve().y.iter().zip(&dy).map(|(a, b)| a * b).sum();
                    case.x[at] = old;
                    loss
                };
                let want = (loss(step) - loss(-step)) / (2.0 * step);
                assert!((got - want).abs() < 1e-7, "dx[{at}] is {got}, not {want}");
            }
        }
    }
}
