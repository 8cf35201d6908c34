//! `y[i] = value` (ONNX ConstantOfShape), converted as the kernel `cast` converts.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "fill",
    args: &[Arg::write("y", Types::Any)],
    scalars: &[("value", ScalarKind::Float)],
    admits: |t| t.agree(),
    flops: |_| 0,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::harness::Bench;
    use crate::{DType, Scalar, fill::KERNEL};

    #[test]
    fn fills_every_type() {
        for len in [0, 1, 17, 40_001] {
            for (dtype, value, want) in [
                (DType::F32, -2.5, -2.5),
                (DType::F64, 0.1, 0.1),
                (DType::I64, -3.0, -3.0),
                (DType::I32, 7.9, 7.0),
                (DType::U32, -1.0, 0.0),
                (DType::U8, 300.0, 255.0),
                (DType::Bool, 5.0, 1.0),
            ] {
                let mut bench = Bench::new(&KERNEL, vec![Scalar::Float(value)]);
                bench.ints("y", dtype, &vec![9; len]);
                let got = if dtype.is_float() {
                    bench.run()["y"].clone()
                } else {
                    bench.run_ints()["y"].iter().map(|&v| v as f64).collect()
                };
                assert_eq!(got, vec![want; len], "{dtype}");
            }
        }
    }
}
