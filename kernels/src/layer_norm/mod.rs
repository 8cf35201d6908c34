//! `y = (x - mean) * rstd * scale + bias` with statistics of rows (ONNX LayerNormalization; Ba, Kiros and Hinton,
//! "Layer Normalization").
//!
//! `x` and `y` are `[rows, cols]`, `scale` and `bias` `[cols]` and 1 and 0 where absent; `mean` and `rstd = 1 /
//! sqrt(variance + epsilon)` are `[rows]`. `x` and `y` may be rounded to bfloat16. The variance is that of the whole row, without Bessel's correction.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "layer_norm",
    args: &[
        Arg::read("x", Types::Rounded),
        Arg::read("scale", Types::Float).or_none(),
        Arg::read("bias", Types::Float).or_none(),
        Arg::write("y", Types::Rounded),
        Arg::write("mean", Types::Float),
        Arg::write("rstd", Types::Float),
    ],
    scalars: &[("rows", ScalarKind::Int), ("cols", ScalarKind::Int), ("epsilon", ScalarKind::Float)],
    admits: |t| t.agree(),
    flops: |call| 7 * call.len("x") as u64,
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
        for (name, value) in [("scale", &case.scale), ("bias", &case.bias)] {
            if let Some(value) = value {
                bench.float(name, dtype, value);
            }
        }
        bench.float("y", dtype, &vec![f64::NAN; case.x.len()]);
        for name in ["mean", "rstd"] {
            bench.float(name, dtype, &vec![f64::NAN; case.sizes[0]]);
        }
        bench
    }

    fn run(case: &Case, dtype: DType) -> HashMap<&'static str, Vec<f64>> {
        bench(case, dtype).run()
    }

    #[test]
    fn operand_and_result_may_be_rounded() {
        cases(true).iter().for_each(|case| {
            [&["x"][..], &["y"], &["x", "y"]].iter().for_each(|names| bench(case, DType::F32).assert_rounded(names));
        });
    }

    #[test]
    fn matches_a_naive_loop() {
        for case in cases(true) {
            let want = case.solve();
            for (dtype, tolerance) in [(DType::F32, 4e-7), (DType::F64, 1e-12)] {
                let got = run(&case, dtype);
                assert_close(&got["y"], &want.y, tolerance);
                assert_close(&got["rstd"], &want.rstd, tolerance);
                assert_close(&got["mean"], &want.mean, tolerance);
            }
        }
    }

    #[test]
    fn a_large_offset_leaves_the_variance_accurate() {
        let mut case = Case::new([3, 1000], true, true, true);
        case.x = case.x.iter().map(|x| f64::from((x * 0.5 + 1000.0) as f32)).collect();
        let (got, want) = (run(&case, DType::F32), case.solve());
        assert_close(&got["rstd"], &want.rstd, 2e-7);
        assert_close(&got["y"], &want.y, 4e-7);
    }

    #[test]
    fn rows_without_elements_have_statistics() {
        let got = run(&Case::new([3, 0], true, true, true), DType::F32);
        assert_eq!(got["mean"], [0.0; 3]);
        assert_close(&got["rstd"], &[1.0 / EPSILON.sqrt(); 3], 1e-6);
    }
}
