//! `y[i] = x[i]` in another element type (ONNX Cast).
//!
//! Real numbers lose their fraction when they become integers and saturate at the ends of the range, NaN becomes 0;
//! integers wrap. Anything but zero is true. Half precision is converted from and to `f32`.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, DType, Kernel, TypedCall, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "cast",
    args: &[Arg::read("x", Types::Stored), Arg::write("y", Types::Stored)],
    scalars: &[],
    admits,
    flops: |_| 0,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Half precision is widened to `f32` and rounded from it alone.
fn admits(t: &TypedCall<'_>) -> bool {
    match (t.dtype("x"), t.dtype("y")) {
        (DType::F32, half) | (half, DType::F32) if half.is_half() => true,
        (x, y) => !x.is_half() && !y.is_half(),
    }
}

#[cfg(test)]
mod tests {
    use crate::harness::{Bench, rounded};
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

    fn floats(from: DType, to: DType, x: &[f64]) -> Vec<f64> {
        let mut bench = Bench::new(&KERNEL, vec![]);
        bench.float("x", from, x);
        bench.float("y", to, &vec![9.0; x.len()]);
        bench.run()["y"].clone()
    }

    #[test]
    fn half_precision_rounds_to_nearest_ties_to_even() {
        for (half, last) in [(DType::Bf16, 1.0 / 128.0), (DType::F16, 1.0 / 1024.0)] {
            let one = 1.0 + last;
            let middles = [1.0 + last / 2.0, one + last / 2.0, one + last / 1.99];
            let x = [1.0, 1e-40, -0.0, 3e-6, -7e-5, 1234.5, f64::NEG_INFINITY, f64::INFINITY];
            let x: Vec<f64> = middles.into_iter().chain(x).collect();
            let want = rounded(half, &x);
            assert_eq!(want[..2], [1.0, 1.0 + 2.0 * last]);
            assert_eq!(floats(DType::F32, half, &x), want);
            assert!(floats(DType::F32, half, &[f64::NAN])[0].is_nan());
            assert_eq!(floats(half, DType::F32, &want), want);
        }
    }

    #[test]
    fn what_exceeds_half_precision() {
        assert_eq!(
            floats(DType::F32, DType::F16, &[65519.0, 65520.0, -1e30, 3.4e38]),
            [65504.0, 65504.0, -65504.0, 65504.0]
        );
        let x = [-1e30, 3.4e38];
        assert_eq!(floats(DType::F32, DType::Bf16, &x), rounded(DType::Bf16, &x));
    }

    #[test]
    fn every_number_of_half_precision_is_itself_again() {
        let x: Vec<f64> =
            (0..=u16::MAX).map(half::f16::from_bits).filter(|x| !x.is_nan()).map(|x| x.to_f64()).collect();
        assert_eq!(floats(DType::F16, DType::F32, &x), x);
        assert_eq!(floats(DType::F32, DType::F16, &x), x);
    }

    #[test]
    fn long_and_empty() {
        let x: Vec<i64> = (0..40_003).map(|i| i - 20_000).collect();
        assert_eq!(from_ints(DType::I64, DType::I32, &x).run_ints()["y"], x);
        assert_eq!(from_ints(DType::I64, DType::F32, &[]).run()["y"], [0.0; 0]);
    }
}
