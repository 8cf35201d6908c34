//! Gradient of layer normalisation with respect to its scale and bias.
//!
//! `dscale = sum(dy * (x - mean) * rstd)` and `dbias = sum(dy)` for each column, over the rows. Shapes are those of
//! layer_norm.

mod cpu;
mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "layer_norm_grad_affine",
    args: &[
        Arg::read("x", Types::Float),
        Arg::read("dy", Types::Float),
        Arg::read("mean", Types::Float),
        Arg::read("rstd", Types::Float),
        Arg::write("dscale", Types::Float),
        Arg::write("dbias", Types::Float),
    ],
    scalars: &[("rows", ScalarKind::Int), ("cols", ScalarKind::Int)],
    admits: |t| t.agree(),
    flops: |call| 5 * call.len("x") as u64,
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
        for (name, value) in [("mean", &solution.mean), ("rstd", &solution.rstd)] {
            bench.float(name, dtype, value);
        }
        for name in ["dscale", "dbias"] {
            bench.float(name, dtype, &vec![f64::NAN; case.sizes[1]]);
        }
        bench.run()
    }

    #[test]
    fn matches_a_naive_loop() {
        for case in cases(true) {
            let [_, cols] = case.sizes;
            let solution = case.solve();
            let dy = noise(case.x.len(), 5);
            let mut dscale = vec![0.0; cols];
            let mut dbias = vec![0.0; cols];
            for (at, dy) in dy.iter().enumerate() {
                let row = at / cols;
                dscale[at % cols] += dy * (case.x[at] - solution.mean[row]) * solution.rstd[row];
                dbias[at % cols] += dy;
            }
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-12)] {
                let got = run(&case, &dy, dtype);
                assert_close(&got["dscale"], &dscale, tolerance);
                assert_close(&got["dbias"], &dbias, tolerance);
            }
        }
    }

    #[test]
    fn matches_central_differences() {
        let mut case = Case::new([5, 19], true, true, true);
        let dy = noise(case.x.len(), 5);
        let got = run(&case, &dy, DType::F64);
        let step = 1e-4;
        for name in ["dscale", "dbias"] {
            for (at, &got) in got[name].iter().enumerate() {
                let mut loss = |by: f64| {
                    let operand = if name == "dscale" { &mut case.scale } else { &mut case.bias };
                    let value = &mut operand.as_mut().expect("given")[at];
                    let old = *value;
                    *value += by;
                    let loss: f64 = case.solve().y.iter().zip(&dy).map(|(a, b)| a * b).sum();
                    let operand = if name == "dscale" { &mut case.scale } else { &mut case.bias };
                    operand.as_mut().expect("given")[at] = old;
                    loss
                };
                let want = (loss(step) - loss(-step)) / (2.0 * step);
                assert!((got - want).abs() < 1e-8, "{name}[{at}] is {got}, not {want}");
            }
        }
    }
}
