//! Gradient of root mean square normalisation with respect to its input.
//!
//! With `g = dy * scale` and `h = x * rstd`: `dx = rstd * (g - h * mean(g * h))`, the mean taken over the row.
//! Shapes are those of rms_norm.

mod cpu;
mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "rms_norm_grad",
    args: &[
        Arg::read("x", Types::Rounded),
        Arg::read("dy", Types::Float),
        Arg::read("scale", Types::Float).or_none(),
        Arg::read("rstd", Types::Float),
        Arg::write("dx", Types::Float),
    ],
    scalars: &[("rows", ScalarKind::Int), ("cols", ScalarKind::Int)],
    admits: |t| t.agree(),
    flops: |call| 7 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::harness::{Bench, assert_close, noise};
    use crate::norm::tests::{Case, cases};

    fn bench(case: &Case, dy: &[f64], dtype: DType) -> Bench {
        let solution = case.solve();
        let mut bench = Bench::new(&KERNEL, case.scalars(false));
        bench.float("x", dtype, &case.x);
        bench.float("dy", dtype, dy);
        if let Some(scale) = &case.scale {
            bench.float("scale", dtype, scale);
        }
        bench.float("rstd", dtype, &solution.rstd);
        bench.float("dx", dtype, &vec![f64::NAN; dy.len()]);
        bench
    }

    fn run(case: &Case, dy: &[f64], dtype: DType) -> Vec<f64> {
        bench(case, dy, dtype).run().remove("dx").expect("an output")
    }

    #[test]
    fn the_operand_may_be_rounded() {
        for case in cases(false) {
            bench(&case, &noise(case.x.len(), 5), DType::F32).assert_rounded(&["x"]);
        }
    }

    #[test]
    fn matches_a_naive_loop() {
        for case in cases(false) {
            let [rows, cols] = case.sizes;
            let (size, solution) = (cols as f64, case.solve());
            let dy = noise(case.x.len(), 5);
            let mut want = Vec::new();
            for row in 0..rows {
                let (mean, rstd) = (solution.mean[row], solution.rstd[row]);
                let at = |j: usize| {
                    let g = dy[row * cols + j] * case.scale.as_ref().map_or(1.0, |s| s[j]);
                    (g, (case.x[row * cols + j] - mean) * rstd)
                };
                let tilted: f64 = (0..cols).map(|j| at(j).0 * at(j).1).sum();
                want.extend((0..cols).map(|j| {
                    let (g, h) = at(j);
                    rstd * (g - h * tilted / size)
                }));
            }
            assert_close(&run(&case, &dy, DType::F32), &want, 1e-6);
            assert_close(&run(&case, &dy, DType::F64), &want, 1e-12);
        }
    }

    #[test]
    fn matches_central_differences() {
        for sizes in [[3, 7], [2, 35]] {
            let mut case = Case::new(sizes, false, true, true);
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
