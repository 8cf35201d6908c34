//! Gradient of softmax: `dx = y * (dy - sum(y * dy))` along one axis.
//!
//! `y` is the result of softmax; all arrays are [outer, n, inner] and the sum runs over `n`.

mod cpu;
mod cuda;

use crate::softmax::SCALARS;
use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "softmax_grad",
    args: &[Arg::read("y", Types::Float), Arg::read("dy", Types::Float), Arg::write("dx", Types::Float)],
    scalars: SCALARS,
    admits: |t| t.agree(),
    flops: |call| 4 * call.len("y") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::harness::{Bench, assert_close, noise};
    use crate::softmax::tests::{SHAPES, naive, scalars};

    fn run(y: &[f64], dy: &[f64], shape: [usize; 3], dtype: DType) -> Vec<f64> {
        let mut bench = Bench::new(&KERNEL, scalars(shape));
        bench.float("y", dtype, y);
        bench.float("dy", dtype, dy);
        bench.float("dx", dtype, &vec![f64::NAN; y.len()]);
        bench.run().remove("dx").expect("an output")
    }

    #[test]
    fn matches_a_naive_loop() {
        for &shape in SHAPES {
            let [outer, n, inner] = shape;
            // Any factors will do for the formula, and large ones show more than probabilities.
            let (y, dy) = (noise(outer * n * inner, 1), noise(outer * n * inner, 2));
            let mut want = vec![0.0; y.len()];
            for o in 0..outer {
                for i in 0..inner {
                    let at = |j: usize| (o * n + j) * inner + i;
                    let sum: f64 = (0..n).map(|j| y[at(j)] * dy[at(j)]).sum();
                    for j in 0..n {
                        want[at(j)] = y[at(j)] * (dy[at(j)] - sum);
                    }
                }
            }
            assert_close(&run(&y, &dy, shape, DType::F32), &want, 1e-6);
            assert_close(&run(&y, &dy, shape, DType::F64), &want, 1e-12);
        }
    }

    #[test]
    fn matches_central_differences() {
        for shape in [[2, 19, 1], [2, 3, 17]] {
            let x = noise(shape.iter().product(), 1);
            let dy = noise(x.len(), 2);
            let got = run(&naive(&x, shape), &dy, shape, DType::F64);
            let step = 1e-5;
            for (at, got) in got.into_iter().enumerate() {
                let loss = |by: f64| {
                    let mut x = x.clone();
                    x[at] += by;
                    naive(&x, shape).iter().zip(&dy).map(|(a, b)| a * b).sum::<f64>()
                };
                let want = (loss(step) - loss(-step)) / (2.0 * step);
                assert!((got - want).abs() < 1e-9, "dx[{at}] is {got}, not {want}");
            }
        }
    }
}
