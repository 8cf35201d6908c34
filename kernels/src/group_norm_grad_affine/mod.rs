//! Gradient of group normalisation with respect to its scale and bias.
//!
//! `dscale = sum(dy * (x - mean) * rstd)` and `dbias = sum(dy)` for each channel, over [n, inner]. Shapes are those of
//! group_norm.

mod cpu;
mod cuda;

use crate::group_norm::SCALARS;
use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "group_norm_grad_affine",
    args: &[
        Arg::read("x", Types::Float),
        Arg::read("dy", Types::Float),
        Arg::read("mean", Types::Float),
        Arg::read("rstd", Types::Float),
        Arg::write("dscale", Types::Float),
        Arg::write("dbias", Types::Float),
    ],
    scalars: SCALARS,
    admits: |t| t.agree(),
    flops: |call| 4 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::group_norm::tests::{Case, cases};
    use crate::harness::{Bench, assert_close, noise};

    fn run(case: &Case, dy: &[f64], dtype: DType) -> [Vec<f64>; 2] {
        let channels = case.sizes[1];
        let solution = case.solve();
        let mut bench = Bench::new(&KERNEL, case.scalars());
        bench.float("x", dtype, &case.x);
        bench.float("dy", dtype, dy);
        bench.float("mean", dtype, &solution.mean);
        bench.float("rstd", dtype, &solution.rstd);
        bench.float("dscale", dtype, &vec![f64::NAN; channels]);
        bench.float("dbias", dtype, &vec![f64::NAN; channels]);
        let mut out = bench.run();
        ["dscale", "dbias"].map(|name| out.remove(name).expect("an output"))
    }

    #[test]
    fn matches_a_naive_loop() {
        for case in cases() {
            let solution = case.solve();
            let dy = noise(case.x.len(), 5);
            let (mut dscale, mut dbias) = (vec![0.0; case.sizes[1]], vec![0.0; case.sizes[1]]);
            for (at, dy) in dy.iter().enumerate() {
                let (group, channel) = case.place(at);
                dscale[channel] += dy * (case.x[at] - solution.mean[group]) * solution.rstd[group];
                dbias[channel] += dy;
            }
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-11)] {
                let got = run(&case, &dy, dtype);
                assert_close(&got[0], &dscale, tolerance);
                assert_close(&got[1], &dbias, tolerance);
            }
        }
    }

    #[test]
    fn matches_central_differences() {
        let mut case = Case::new([2, 6, 3, 7], true, true);
        let dy = noise(case.x.len(), 5);
        let got = run(&case, &dy, DType::F64);
        let step = 1e-4;
        for (which, got) in got.into_iter().enumerate() {
            for (at, got) in got.into_iter().enumerate() {
                let mut loss = |by: f64| {
                    let operand = if which == 0 { &mut case.scale } else { &mut case.bias };
                    operand.as_mut().expect("given")[at] += by;
                    case.solve().y.iter().zip(&dy).map(|(a, b)| a * b).sum::<f64>()
                };
                let (above, below) = (loss(step), loss(-2.0 * step));
                loss(step);
                let want = (above - below) / (2.0 * step);
                assert!((got - want).abs() < 1e-8, "operand {which}, element {at} is {got}, not {want}");
            }
        }
    }
}
