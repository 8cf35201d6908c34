//! `x /= sqrt(sum(x^2))`: scales to a Frobenius norm of one. Where the norm is zero `x` stays as it is.

mod cpu;
mod cuda;

use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "normalize",
    args: &[Arg::update("x", Types::Float)],
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

    fn run(x: &[f64], dtype: DType) -> Vec<f64> {
        let mut bench = Bench::new(&KERNEL, vec![]);
        bench.float("x", dtype, x);
        bench.run().remove("x").expect("an output")
    }

    #[test]
    fn divides_by_the_norm() {
        for len in [1, 37, 50_001] {
            for scale in [1.0, 1e-15, 1e15] {
                let x: Vec<f64> = noise(len, 1).iter().map(|x| f64::from((x * scale) as f32)).collect();
                let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
                for (dtype, tolerance) in [(DType::F32, 1.2e-7), (DType::F64, 1e-13)] {
                    for (got, x) in run(&x, dtype).iter().zip(&x) {
                        let want = x / norm;
                        assert!((got - want).abs() <= tolerance * want.abs(), "{got} is not {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn zero_stays() {
        assert_eq!(run(&[0.0; 37], DType::F32), [0.0; 37]);
        assert!(run(&[], DType::F64).is_empty());
    }
}
