//! `y = exp(x) / sum(exp(x))` along one axis (ONNX Softmax).
//!
//! `x` and `y` are [outer, n, inner] and the sum runs over `n`. The largest element is subtracted first. Where every
//! element is negative infinity the result is zero; a NaN makes all of its line NaN.

mod cpu;
mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Scalars of this kernel and of its gradient.
pub(crate) const SCALARS: &[(&str, ScalarKind)] =
    &[("outer", ScalarKind::Int), ("n", ScalarKind::Int), ("inner", ScalarKind::Int)];

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "softmax",
    args: &[Arg::read("x", Types::Float), Arg::write("y", Types::Float)],
    scalars: SCALARS,
    admits: |t| t.agree(),
    // A difference, an exponential counted as one, a sum and a division for each element.
    flops: |call| 4 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
pub(crate) mod tests {
    use super::KERNEL;
    use crate::harness::{Bench, assert_close, noise};
    use crate::{DType, Scalar};

    pub(crate) const SHAPES: &[[usize; 3]] = &[
        [1, 1, 1],
        [5, 7, 1],
        [3, 77, 1],
        [2, 32, 1],
        [600, 65, 1],
        [3, 5, 2],
        [2, 9, 16],
        [4, 3, 37],
        [50, 21, 19],
        [1, 20_000, 1],
        [0, 4, 3],
        [4, 0, 3],
        [4, 3, 0],
    ];

    pub(crate) fn scalars(shape: [usize; 3]) -> Vec<Scalar> {
        shape.iter().map(|&d| Scalar::Int(d as i64)).collect()
    }

    pub(crate) fn naive(x: &[f64], [outer, n, inner]: [usize; 3]) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        for o in 0..outer {
            for i in 0..inner {
                let at = |j: usize| (o * n + j) * inner + i;
                let high = (0..n).map(|j| x[at(j)]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..n).map(|j| (x[at(j)] - high).exp()).sum();
                for j in 0..n {
                    y[at(j)] = (x[at(j)] - high).exp() / sum;
                }
            }
        }
        y
    }

    fn run(x: &[f64], shape: [usize; 3], dtype: DType) -> Vec<f64> {
        let mut bench = Bench::new(&KERNEL, scalars(shape));
        bench.float("x", dtype, x);
        bench.float("y", dtype, &vec![f64::NAN; x.len()]);
        bench.run().remove("y").expect("an output")
    }

    #[test]
    fn matches_a_naive_loop() {
        for &shape in SHAPES {
            // Wide enough for an exponential that is not shifted to overflow single precision.
            let x: Vec<f64> = noise(shape.iter().product(), 1).iter().map(|x| x * 128.0).collect();
            let want = naive(&x, shape);
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-14)] {
                let got = run(&x, shape, dtype);
                assert_close(&got, &want, tolerance);
                for (g, w) in got.iter().zip(&want).filter(|(_, w)| **w > 1e-30) {
                    assert!((g - w).abs() <= 2.0 * tolerance * w, "{g} is not {w}");
                }
            }
        }
    }

    #[test]
    fn masked_lines_are_zero() {
        for shape in [[4, 21, 1], [2, 21, 18]] {
            let [outer, n, inner] = shape;
            for dtype in [DType::F32, DType::F64] {
                let mut x = noise(outer * n * inner, 1);
                // The first line of each slab is masked in full, all others but for their last element.
                for (at, x) in x.iter_mut().enumerate() {
                    if at % inner == 0 && at / (n * inner) == 0 || at / inner % n != n - 1 {
                        *x = f64::NEG_INFINITY;
                    }
                }
                for (at, y) in run(&x, shape, dtype).into_iter().enumerate() {
                    let masked = x[at] == f64::NEG_INFINITY;
                    assert_eq!(y, if masked { 0.0 } else { 1.0 }, "element {at}");
                }
            }
        }
    }

    #[test]
    fn nan_spreads_along_its_line_only() {
        for (shape, step) in [([2, 40, 1], 1), ([2, 40, 17], 17)] {
            let [_, n, inner] = shape;
            let mut x = noise(shape.iter().product(), 1);
            x[3 * step] = f64::NAN;
            for (at, y) in run(&x, shape, DType::F32).into_iter().enumerate() {
                assert_eq!(y.is_nan(), at < n * inner && at % inner == 0, "element {at}");
            }
        }
    }
}
