//! `y[i] = x[i]` in another element type (ONNX Cast).
//!
//! Real numbers lose their fraction when they become integers and saturate at the ends of the range, NaN becomes 0;
//! integers wrap. Anything but zero is true.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "cast",
    args: &[Arg::read("x", Types::Stored), Arg::write("y", Types::Stored)],
    scalars: &[],
    flops: |_| 0,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::harness::Bench;
    use crate::{DType, cast::KERNEL};

    fn from_ints(from: DType, to: DType, x: &[i64]) -> Bench {
        let mut bench = Bench::new(&KERNEL, vec![]);
        bench.ints("x", from, x);
        bench.ints("y", to, &vec![9; x.len()]);
        bench
    }

    fn from_floats(to: DType, x: &[f64]) -> Bench {
        let mut bench = Bench::new(&KERNEL, vec![]);
        bench.float("x", DType::F64, x);
        bench.ints("y", to, &vec![9; x.len()]);
        bench
    }

    #[test]
    fn integers_stay_exact() {
        let big = (1 << 53) + 1;
        assert_eq!(from_ints(DType::I64, DType::I64, &[big, -big, i64::MIN]).run_ints()["y"], [big, -big, i64::MIN]);
        assert_eq!(from_ints(DType::I64, DType::I32, &[(1 << 32) + 5, -7]).run_ints()["y"], [5, -7]);
        assert_eq!(from_ints(DType::I64, DType::U8, &[257, -1]).run_ints()["y"], [1, 255]);
        assert_eq!(from_ints(DType::U32, DType::I64, &[u32::MAX.into(), 0]).run_ints()["y"], [u32::MAX.into(), 0]);
        assert_eq!(from_ints(DType::I64, DType::Bool, &[256, 0, -1]).run_ints()["y"], [1, 0, 1]);
        assert_eq!(from_ints(DType::Bool, DType::F32, &[1, 0]).run()["y"], [1.0, 0.0]);
        assert_eq!(from_ints(DType::I32, DType::F64, &[-5, i32::MAX.into()]).run()["y"], [-5.0, i32::MAX.into()]);
    }

    #[test]
    fn real_numbers_truncate_and_saturate() {
        let x = [1.9, -1.9, 1e30, -1e30, f64::NAN, 0.25, -0.0];
        assert_eq!(from_floats(DType::I32, &x).run_ints()["y"], [1, -1, i32::MAX.into(), i32::MIN.into(), 0, 0, 0]);
        assert_eq!(from_floats(DType::U8, &x).run_ints()["y"], [1, 0, 255, 0, 0, 0, 0]);
        assert_eq!(from_floats(DType::Bool, &x).run_ints()["y"], [1, 1, 1, 1, 1, 1, 0]);
        let got = from_floats(DType::F32, &x).run()["y"].clone();
        assert_eq!(got[..2], [f64::from(1.9_f32), f64::from(-1.9_f32)]);
        assert!(got[4].is_nan());
    }

    #[test]
    fn half_precision_rounds_to_nearest_ties_to_even() {
        let one = 1.0 + 1.0 / 128.0;
        let x =
            [1.0, 1.0 + 1.0 / 256.0, one + 1.0 / 256.0, one + 1.0 / 255.0, -1e30, 3.4e38, f64::INFINITY, -0.0, 1e-40];
        let narrow = |x: &[f64]| {
            let mut bench = Bench::new(&KERNEL, vec![]);
            bench.float("x", DType::F32, x);
            bench.float("y", DType::Bf16, &vec![9.0; x.len()]);
            bench.run()["y"].clone()
        };
        let want = x.map(|v| half::bf16::from_f32(v as f32).to_f64());
        assert_eq!(want[1..3], [1.0, 1.0 + 2.0 / 128.0]);
        assert_eq!(narrow(&x), want);
        assert!(narrow(&[f64::NAN])[0].is_nan());
        let mut bench = Bench::new(&KERNEL, vec![]);
        bench.float("x", DType::Bf16, &want);
        bench.float("y", DType::F32, &vec![9.0; want.len()]);
        assert_eq!(bench.run()["y"], want);
    }

    #[test]
    fn long_and_empty() {
        let x: Vec<i64> = (0..40_003).map(|i| i - 20_000).collect();
        assert_eq!(from_ints(DType::I64, DType::I32, &x).run_ints()["y"], x);
        assert_eq!(from_ints(DType::I64, DType::F32, &[]).run()["y"], [0.0; 0]);
    }
}
