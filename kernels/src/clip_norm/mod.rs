//! The global norm of the gradient and the factor that clips it.
//!
//! `hyper[NORM] = sqrt(sum(sums))`, `hyper[CLIP] = min(1, hyper[MAX_NORM] / (hyper[NORM] + 1e-6))`, or 1 where MAX_NORM
//! is 0 (PyTorch's `clip_grad_norm_`). `sums` are added in order; a norm that is not a number makes the factor none.

mod cpu;
mod cuda;

use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "clip_norm",
    args: &[Arg::read("sums", Types::Only(DType::F64)), Arg::update("hyper", Types::Only(DType::F32))],
    scalars: &[],
    admits: |t| t.agree(),
    flops: |call| call.len("sums") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::harness::Bench;
    use crate::hyper::{CLIP, LEN, MAX_NORM, NORM};

    /// The norm, and the factor.
    fn run(sums: &[f64], max_norm: f64) -> [f64; 2] {
        let mut hyper: Vec<f64> = (0..LEN).map(|i| i as f64 + 0.5).collect();
        hyper[MAX_NORM] = max_norm;
        let mut bench = Bench::new(&KERNEL, vec![]);
        bench.float("sums", DType::F64, sums);
        bench.float("hyper", DType::F32, &hyper);
        let got = &bench.run()["hyper"];
        for i in (0..LEN).filter(|i| ![NORM, CLIP].contains(i)) {
            assert_eq!(got[i], hyper[i], "element {i}");
        }
        [got[NORM], got[CLIP]]
    }

    #[test]
    fn clips_only_what_is_too_long() {
        let [norm, clip] = run(&[9.0, 7.0, 9.0], 2.0);
        assert_eq!(norm, 5.0);
        assert!((clip - 2.0 / 5.000_001).abs() < 3e-8, "{clip}");
        assert_eq!(run(&[9.0, 7.0, 9.0], 6.0), [5.0, 1.0]);
        assert_eq!(run(&[9.0, 7.0, 9.0], 0.0), [5.0, 1.0]);
        assert_eq!(run(&[0.0], 1.0), [0.0, 1.0]);
        assert_eq!(run(&[], 1.0), [0.0, 1.0]);
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let got = run(&[1.0, f64::NAN], 1.0);
        assert!(got[0].is_nan() && got[1].is_nan());
        assert_eq!(run(&[f64::INFINITY], 1.0), [f64::INFINITY, 0.0]);
    }
}
