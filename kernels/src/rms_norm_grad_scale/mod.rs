//! Gradient of root mean square normalisation with respect to its scale.
//!
//! `dscale = sum(dy * x * rstd)` for each column, over the rows. Shapes are those of rms_norm.

mod cpu;
mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "rms_norm_grad_scale",
    args: &[
        Arg::read("x", Types::Float),
        Arg::read("dy", Types::Float),
        Arg::read("rstd", Types::Float),
        Arg::write("dscale", Types::Float),
    ],
    scalars: &[("rows", ScalarKind::Int), ("cols", ScalarKind::Int)],
    admits: |t| t.agree(),
    flops: |call| 3 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::harness::{Bench, assert_close, noise};
    use crate::norm::tests::{Case, cases};
    use std::collections::HashMap;

    fn run(case: &Case, dy: &[f64], dtype: DType) -> HashMap<&'static str, Vec<f64>> {
        let solution = case.solve();
        let mut bench = Bench::new(&KERNEL, case.scalars(false));
        bench.float("x", dtype, &case.x);
        bench.float("dy", dtype, dy);
        bench.float("rstd", dtype, &solution.rstd);
        bench.float("dscale", dtype, &vec![f64::NAN; case.sizes[1]]);
        bench.run()
    }

    #[test]
    fn matches_a_naive_loop() {
        for case in cases(false) {
            let [_, cols] = case.sizes;
            let solution = case.solve();
            let dy = noise(case.x.len(), 5);
            let mut dscale = vec![0.0; cols];
            for (at, dy) in dy.iter().enumerate() {
                let row = at / cols;
                dscale[at % cols] += dy * (case.x[at] - solution.mean[row]) * solution.rstd[row];
            }
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-12)] {
                let got = run(&case, &dy, dtype);
                assert_close(&got["dscale"], &dscale, tolerance);
            }
        }
    }

    #[test]
    fn matches_central_differences() {
        let mut case = Case::new([5, 19], false, true, true);
        let dy = noise(case.x.len(), 5);
        let got = run(&case, &dy, DType::F64);
        let step = 1e-4;
        for (at, &got) in got["dscale"].iter().enumerate() {
            let mut loss = |by: f64| {
                let mut moved = case.scale.clone().expect("given");
                moved[at] += by;
                let old = case.scale.replace(moved);
                let loss: f64 = case.solve().y.iter().zip(&dy).map(|(a, b)| a * b).sum();
                case.scale = old;
                loss
            };
            let want = (loss(step) - loss(-step)) / (2.0 * step);
            assert!((got - want).abs() < 1e-8, "dscale[{at}] is {got}, not {want}");
        }
    }
}
