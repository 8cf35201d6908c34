//! `y = op(x)` over some axes (ONNX ReduceSum, ReduceMean, ReduceMax, ReduceMin, ReduceProd).
//!
//! `shape` is that of `x`; `y` holds the axes that are not in `axes`, in order. Floats are accumulated in double
//! precision; integers wrap and their mean truncates. The maximum and the minimum of numbers among which is NaN are
//! NaN.

mod cpu;
mod cuda;

use crate::{Arg, Call, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "reduce",
    args: &[Arg::read("x", Types::Any), Arg::write("y", Types::Any)],
    scalars: &[("op", ScalarKind::Word), ("shape", ScalarKind::Ints), ("axes", ScalarKind::Ints)],
    admits: |t| t.agree() && cuda::WORDS.contains(&t.word("op")),
    flops: |call: &Call<'_>| call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::harness::{Bench, assert_close, indices, noise};
    use crate::{DType, Scalar, reduce::KERNEL};

    fn bench(op: &str, shape: &[i64], axes: &[i64]) -> Bench {
        Bench::new(&KERNEL, vec![Scalar::Word(op.into()), Scalar::Ints(shape.to_vec()), Scalar::Ints(axes.to_vec())])
    }

    fn reference(op: &str, shape: &[i64], axes: &[i64], x: &[f64]) -> Vec<f64> {
        let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(&(*d as i64))).collect();
        let len: i64 = kept.iter().map(|&d| shape[d]).product();
        let mut groups = vec![vec![]; len as usize];
        for (i, &x) in indices(shape).iter().zip(x) {
            groups[kept.iter().fold(0, |at, &d| at * shape[d] + i[d]) as usize].push(x);
        }
        let fold = |g: Vec<f64>| match op {
            "sum" => g.iter().sum::<f64>(),
            "mean" => g.iter().sum::<f64>() / g.len() as f64,
            "prod" => g.iter().product(),
            "max" => g.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            _ => g.iter().copied().fold(f64::INFINITY, f64::min),
        };
        groups.into_iter().map(fold).collect()
    }

    #[test]
    fn every_function_over_every_set_of_axes() {
        for shape in [&[3_i64, 1, 4, 5][..], &[2, 37], &[130, 300], &[3, 5, 2, 40], &[7], &[]] {
            let x = noise(shape.iter().product::<i64>() as usize, 1);
            for set in 0..1 << shape.len() {
                let axes: Vec<i64> = (0..shape.len() as i64).filter(|d| set >> d & 1 == 1).collect();
                for op in ["sum", "mean", "prod", "max", "min"] {
                    let want = reference(op, shape, &axes, &x);
                    for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-12)] {
                        let mut bench = bench(op, shape, &axes);
                        bench.float("x", dtype, &x);
                        bench.float("y", dtype, &vec![7.0; want.len()]);
                        assert_close(&bench.run()["y"], &want, tolerance);
                    }
                }
            }
        }
    }

    #[test]
    fn one_long_sum() {
        let x = noise(300_007, 1);
        let mut bench = bench("sum", &[300_007], &[0]);
        bench.float("x", DType::F32, &x);
        bench.float("y", DType::F32, &[7.0]);
        assert_close(&bench.run()["y"], &[x.iter().sum()], 1e-6);
    }

    #[test]
    fn integers_stay_exact() {
        let big = (1_i64 << 53) + 1;
        let run = |op: &str| {
            let mut bench = bench(op, &[2, 2], &[1]);
            bench.ints("x", DType::I64, &[big, 2, -3, 5]);
            bench.ints("y", DType::I64, &[9; 2]);
            bench.run_ints()["y"].clone()
        };
        assert_eq!(run("sum"), [big + 2, 2]);
        assert_eq!(run("prod"), [big * 2, -15]);
        assert_eq!(run("max"), [big, 5]);
        assert_eq!(run("min"), [2, -3]);
        assert_eq!(run("mean"), [(big + 2) / 2, 1]);
    }

    #[test]
    fn nothing_to_reduce() {
        for (op, want) in [("sum", 0.0), ("prod", 1.0), ("max", f64::NEG_INFINITY), ("min", f64::INFINITY)] {
            let mut bench = bench(op, &[2, 0], &[1]);
            bench.float("x", DType::F32, &[]);
            bench.float("y", DType::F32, &[7.0; 2]);
            assert_eq!(bench.run()["y"], [want; 2], "{op}");
        }
    }

    #[test]
    fn extremes_keep_nan() {
        for axes in [[0], [1]] {
            for op in ["max", "min"] {
                let mut x = vec![1.0; 40 * 40];
                x[40 * 3 + 20] = f64::NAN;
                let mut bench = bench(op, &[40, 40], &axes);
                bench.float("x", DType::F32, &x);
                bench.float("y", DType::F32, &[7.0; 40]);
                assert_eq!(bench.run()["y"].iter().filter(|y| y.is_nan()).count(), 1, "{op}");
            }
        }
    }
}
