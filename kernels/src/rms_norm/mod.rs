//! `y = x * rstd * scale` with the root mean square of rows (ONNX RMSNormalization; Zhang and Sennrich, "Root Mean
//! Square Layer Normalization").
//!
//! `x` and `y` are `[rows, cols]`, `scale` is `[cols]` and 1 where absent; `rstd = 1 / sqrt(mean(x^2) + epsilon)` is
//! `[rows]`.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "rms_norm",
    args: &[
        Arg::read("x", Types::Rounded),
        Arg::read("scale", Types::Float).or_none(),
        Arg::write("y", Types::Rounded),
        Arg::write("rstd", Types::Float),
    ],
    scalars: &[("rows", ScalarKind::Int), ("cols", ScalarKind::Int), ("epsilon", ScalarKind::Float)],
    admits: |t| t.agree(),
    flops: |call| 4 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::harness::{Bench, assert_close};
    use crate::norm::tests::{Case, EPSILON, cases};
    use std::collections::HashMap;

    fn bench(case: &Case, dtype: DType) -> Bench {
        let mut bench = Bench::new(&KERNEL, case.scalars(true));
        bench.float("x", dtype, &case.x);
        if let Some(scale) = &case.scale {
            bench.float("scale", dtype, scale);
        }
        bench.float("y", dtype, &vec![f64::NAN; case.x.len()]);
        bench.float("rstd", dtype, &vec![f64::NAN; case.sizes[0]]);
        bench
    }

    fn run(case: &Case, dtype: DType) -> HashMap<&'static str, Vec<f64>> {
        bench(case, dtype).run()
    }

    #[test]
    fn operand_and_result_may_be_rounded() {
        cases(false).iter().for_each(|case| {
            [&["x"][..], &["y"], &["x", "y"]].iter().for_each(|names| bench(case, DType::F32).assert_rounded(names));
        });
    }

    #[test]
    fn matches_a_naive_loop() {
        for case in cases(false) {
            let want = case.solve();
            for (dtype, tolerance) in [(DType::F32, 4e-7), (DType::F64, 1e-12)] {
                let got = run(&case, dtype);
                assert_close(&got["y"], &want.y, tolerance);
                assert_close(&got["rstd"], &want.rstd, tolerance);
            }
        }
    }

    #[test]
    fn rows_without_elements_have_statistics() {
        let got = run(&Case::new([3, 0], false, true, true), DType::F32);
        assert_close(&got["rstd"], &[1.0 / EPSILON.sqrt(); 3], 1e-6);
    }
}
