//! `sums[slot] = sum(g^2)` in double precision: one tensor's part of the global norm. Other slots are left alone.

mod cpu;
mod cuda;

use crate::{Arg, DType, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "sum_squares",
    args: &[Arg::read("g", Types::Only(DType::F32)), Arg::update("sums", Types::Only(DType::F64))],
    scalars: &[("slot", ScalarKind::Int)],
    admits: |t| t.agree(),
    flops: |call| 2 * call.len("g") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::harness::{Bench, noise};
    use crate::{DType, Scalar};

    #[test]
    fn matches_a_naive_loop() {
        // The last length has more blocks than there are partial sums for blocks of the usual size.
        for len in [0, 1, 15, 16, 37, 70_001, (1 << 21) + 17] {
            let mut g = noise(len, 1);
            if let Some(first) = g.first_mut() {
                // Its square overflows single precision.
                *first = 1e20;
            }
            let want: f64 = g.iter().map(|&g| f64::from(g as f32).powi(2)).sum();
            let mut bench = Bench::new(&KERNEL, vec![Scalar::Int(1)]);
            bench.float("g", DType::F32, &g);
            bench.float("sums", DType::F64, &[3.0, f64::NAN, 5.0]);
            let got = &bench.run()["sums"];
            assert_eq!([got[0], got[2]], [3.0, 5.0]);
            assert!((got[1] - want).abs() <= 1e-12 * want, "{} is not {want}", got[1]);
        }
    }

    #[test]
    fn every_element_counts() {
        let len = (1 << 21) + 17;
        let mut bench = Bench::new(&KERNEL, vec![Scalar::Int(0)]);
        bench.float("g", DType::F32, &vec![2.0; len]);
        bench.float("sums", DType::F64, &[f64::NAN]);
        assert_eq!(bench.run()["sums"], [4.0 * len as f64]);
    }
}
