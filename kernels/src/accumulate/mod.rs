//! `g[k] += hyper[scale] * d[k]` for every element of `g`: adds a micro-batch's gradient.
//!
//! `d` has at least as many elements as `g`; those beyond are not read. `scale` is a place in [`crate::hyper`].

mod cpu;
mod cuda;

use crate::{Arg, DType, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "accumulate",
    args: &[
        Arg::read("d", Types::Only(DType::F32)),
        Arg::read("hyper", Types::Only(DType::F32)),
        Arg::update("g", Types::Only(DType::F32)),
    ],
    scalars: &[("scale", ScalarKind::Int)],
    admits: |t| t.agree(),
    flops: |call| 2 * call.len("g") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::harness::{Bench, noise};
    use crate::hyper::{GRADIENT_SCALE, LAMBDA_RANK, LEN};
    use crate::{DType, Scalar};

    #[test]
    fn adds_a_multiple() {
        for (len, spare) in [(0, 0), (0, 5), (1, 0), (37, 0), (37, 9), (40_001, 3)] {
            for (slot, factor) in [(GRADIENT_SCALE, 0.25), (LAMBDA_RANK, -3.0)] {
                let (d, g) = (noise(len + spare, 1), noise(len, 2));
                let mut hyper = vec![f64::NAN; LEN];
                hyper[slot] = factor;
                let mut bench = Bench::new(&KERNEL, vec![Scalar::Int(slot as i64)]);
                bench.float("d", DType::F32, &d);
                bench.float("hyper", DType::F32, &hyper);
                bench.float("g", DType::F32, &g);
                let got = &bench.run()["g"];
                assert_eq!(got.len(), len);
                for k in 0..len {
                    let want = g[k] + factor * d[k];
                    assert!((got[k] - want).abs() <= 2e-7 * (1.0 + want.abs()), "g[{k}] is {}, not {want}", got[k]);
                }
            }
        }
    }
}
