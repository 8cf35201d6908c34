//! Gradient of mse_loss with respect to `x`: `dx = 2 * (x - t) / n` for `n` elements.

mod cpu;
mod cuda;

use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "mse_loss_grad",
    args: &[Arg::read("x", Types::Float), Arg::read("t", Types::Float), Arg::write("dx", Types::Float)],
    scalars: &[],
    admits: |t| t.agree(),
    flops: |call| 2 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::harness::{Bench, noise};

    fn run(x: &[f64], t: &[f64], dtype: DType) -> Vec<f64> {
        let mut bench = Bench::new(&KERNEL, vec![]);
        bench.float("x", dtype, x);
        bench.float("t", dtype, t);
        bench.float("dx", dtype, &vec![f64::NAN; x.len()]);
        bench.run().remove("dx").expect("an output")
    }

    #[test]
    fn matches_the_formula() {
        for len in [0, 1, 37, 50_001] {
            let (x, t) = (noise(len, 1), noise(len, 2));
            for (dtype, tolerance) in [(DType::F32, 1e-7), (DType::F64, 1e-15)] {
                let got = run(&x, &t, dtype);
                assert_eq!(got.len(), len);
                for ((got, x), t) in got.iter().zip(&x).zip(&t) {
                    let want = 2.0 * (x - t) / len as f64;
                    assert!((got - want).abs() <= tolerance * want.abs(), "{got} is not {want}");
                }
            }
        }
    }

    #[test]
    fn matches_central_differences() {
        let (mut x, t) = (noise(37, 1), noise(37, 2));
        let step = 1e-3;
        for (at, got) in run(&x, &t, DType::F64).into_iter().enumerate() {
            let mut loss = |by: f64| {
                let old = x[at];
                x[at] += by;
                let loss = x.iter().zip(&t).map(|(x, t)| (x - t).powi(2)).sum::<f64>() / 37.0;
                x[at] = old;
                loss
            };
            let want = (loss(step) - loss(-step)) / (2.0 * step);
            assert!((got - want).abs() < 1e-11, "dx[{at}] is {got}, not {want}");
        }
    }
}
