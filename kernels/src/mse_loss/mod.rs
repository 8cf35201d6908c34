//! `loss = mean((x - t)^2)`, accumulated in double precision. `x` and `t` have one shape, `loss` is one element.

mod cpu;
mod cuda;

use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "mse_loss",
    args: &[Arg::read("x", Types::Float), Arg::read("t", Types::Float), Arg::write("loss", Types::Float)],
    scalars: &[],
    admits: |t| t.agree(),
    flops: |call| 3 * call.len("x") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::harness::{Bench, noise};

    #[test]
    fn matches_a_naive_loop() {
        for len in [1, 15, 16, 37, 50_001] {
            let (x, t) = (noise(len, 1), noise(len, 2));
            let want = x.iter().zip(&t).map(|(x, t)| (x - t).powi(2)).sum::<f64>() / len as f64;
            for (dtype, tolerance) in [(DType::F32, 6e-8), (DType::F64, 1e-13)] {
                let mut bench = Bench::new(&KERNEL, vec![]);
                bench.float("x", dtype, &x);
                bench.float("t", dtype, &t);
                bench.float("loss", dtype, &[f64::NAN]);
                let got = bench.run()["loss"][0];
                assert!((got - want).abs() <= tolerance * want, "{got} is not {want}");
            }
        }
    }

    #[test]
    fn the_mean_of_nothing_is_not_a_number() {
        let mut bench = Bench::new(&KERNEL, vec![]);
        bench.float("x", DType::F32, &[]);
        bench.float("t", DType::F32, &[]);
        bench.float("loss", DType::F32, &[0.0]);
        assert!(bench.run()["loss"][0].is_nan());
    }
}
