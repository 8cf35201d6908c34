//! `y = op(a, b)` with broadcasting (ONNX Add, Sub, Mul, Div, Pow, Min, Max, Mod, Equal, Less, LessOrEqual,
//! Greater, GreaterOrEqual, And, Or, Xor, BitwiseAnd, BitwiseOr, BitwiseXor, BitShift).
//!
//! `shape` is that of `y`; `a_strides` and `b_strides` hold the distance in elements between neighbours of each
//! operand along each dimension, 0 where it is broadcast. Comparisons give truth values, otherwise `y` has the type
//! of the operands. Integers wrap, their division truncates, and division by zero gives zero. `mod` has the sign of
//! the divisor and `fmod` that of the dividend. `bit_and`, `bit_or`, `bit_xor`, `shift_left` and `shift_right` take integers;
//! a shift by the width or more, or by a negative number, leaves zero, or minus one of a negative number shifted to the right. `min` and `max` of a number and NaN are NaN.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, Call, DType, Kernel, ScalarKind, TypedCall, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "binary",
    args: &[Arg::read("a", Types::Any), Arg::read("b", Types::Any), Arg::write("y", Types::Any)],
    scalars: &[
        ("op", ScalarKind::Word),
        ("shape", ScalarKind::Ints),
        ("a_strides", ScalarKind::Ints),
        ("b_strides", ScalarKind::Ints),
    ],
    admits,
    flops: |call: &Call<'_>| call.len("y") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

fn admits(t: &TypedCall<'_>) -> bool {
    let [a, b, y] = ["a", "b", "y"].map(|name| t.dtype(name));
    a == b
        && match t.word("op") {
            "and" | "or" | "xor" => a == DType::Bool && y == DType::Bool,
            "equal" | "less" | "less_equal" | "greater" | "greater_equal" => y == DType::Bool,
            "bit_and" | "bit_or" | "bit_xor" | "shift_left" | "shift_right" => a == y && !a.is_float(),
            "add" | "sub" | "mul" | "div" | "pow" | "mod" | "fmod" | "min" | "max" => a == y,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use crate::harness::{Bench, assert_close, indices, noise};
    use crate::{DType, Scalar, binary::KERNEL};

    fn bench(op: &str, shape: &[i64], a: &[i64], b: &[i64]) -> Bench {
        let lists = [shape, a, b].map(|l| Scalar::Ints(l.to_vec()));
        Bench::new(&KERNEL, [vec![Scalar::Word(op.into())], lists.to_vec()].concat())
    }

    fn ints(op: &str, dtype: DType, a: &[i64], b: &[i64]) -> Vec<i64> {
        let mut bench = bench(op, &[a.len() as i64], &[1], &[1]);
        bench.ints("a", dtype, a);
        bench.ints("b", dtype, b);
        bench.ints("y", dtype, &vec![9; a.len()]);
        bench.run_ints()["y"].clone()
    }

    #[test]
    fn functions_match_their_definitions() {
        let (a, b) = (noise(1003, 1), noise(1003, 2));
        type Function = fn(f64, f64) -> f64;
        let table: &[(&str, Function)] = &[
            ("add", |a, b| a + b),
            ("sub", |a, b| a - b),
            ("mul", |a, b| a * b),
            ("div", |a, b| a / b),
            ("min", f64::min),
            ("max", f64::max),
            ("mod", |a, b| a - (a / b).floor() * b),
            ("fmod", |a, b| a % b),
        ];
        for (op, want) in table {
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-13)] {
                let mut bench = bench(op, &[1003], &[1], &[1]);
                bench.float("a", dtype, &a);
                bench.float("b", dtype, &b);
                bench.float("y", dtype, &vec![7.0; 1003]);
                let got = &bench.run()["y"];
                for ((&a, &b), &got) in a.iter().zip(&b).zip(got) {
                    let want = want(a, b);
                    // The remainder jumps where the quotient is whole, and rounding decides on which side it falls.
                    let wrapped = op.ends_with("mod") && ((got - want).abs() - b.abs()).abs() < tolerance;
                    assert!((got - want).abs() <= tolerance * (1.0 + want.abs()) || wrapped, "{op}({a}, {b}) = {got}");
                }
            }
        }
    }

    #[test]
    fn powers() {
        for (x, e) in [(3.0, 2.0), (-3.0, 2.0), (2.0, 0.5), (-2.0, 3.0), (5.0, 0.0), (2.0, -1.0), (0.0, 2.0)] {
            let mut bench = bench("pow", &[5], &[1], &[0]);
            bench.float("a", DType::F32, &[x; 5]);
            bench.float("b", DType::F32, &[e]);
            bench.float("y", DType::F32, &[7.0; 5]);
            assert_close(&bench.run()["y"], &[f64::powf(x, e); 5], 1e-6);
        }
        assert_eq!(ints("pow", DType::I64, &[3, -2, 5, 2], &[4, 3, 0, -1]), [81, -8, 1, 0]);
    }

    #[test]
    fn broadcasts_every_way() {
        let shape = [3, 4, 5];
        let (a, b) = (noise(60, 1), noise(60, 2));
        for a_strides in [[20, 5, 1], [0, 0, 0], [5, 0, 1], [0, 1, 0], [1, 3, 12]] {
            for b_strides in [[20, 5, 1], [0, 0, 0], [0, 5, 1], [4, 1, 0]] {
                let mut bench = bench("sub", &shape, &a_strides, &b_strides);
                bench.float("a", DType::F64, &a);
                bench.float("b", DType::F64, &b);
                bench.float("y", DType::F64, &[7.0; 60]);
                let at = |i: &[i64], s: &[i64]| i.iter().zip(s).map(|(i, s)| i * s).sum::<i64>() as usize;
                let want: Vec<f64> =
                    indices(&shape).iter().map(|i| a[at(i, &a_strides)] - b[at(i, &b_strides)]).collect();
                assert_eq!(bench.run()["y"], want);
            }
        }
    }

    #[test]
    fn long_operands_and_scalars() {
        let a = noise(70_001, 1);
        let mut bench = bench("mul", &[70_001], &[1], &[0]);
        bench.float("a", DType::F32, &a);
        bench.float("b", DType::F32, &[2.0]);
        bench.float("y", DType::F32, &vec![7.0; a.len()]);
        assert_eq!(bench.run()["y"], a.iter().map(|a| a * 2.0).collect::<Vec<_>>());
    }

    #[test]
    fn no_elements_and_no_dimensions() {
        let mut none = bench("add", &[0, 3], &[3, 1], &[0, 1]);
        none.float("a", DType::F32, &[]);
        none.float("b", DType::F32, &[1.0; 3]);
        none.float("y", DType::F32, &[]);
        assert!(none.run()["y"].is_empty());
        let mut one = bench("add", &[], &[], &[]);
        one.float("a", DType::F32, &[1.0]);
        one.float("b", DType::F32, &[2.0]);
        one.float("y", DType::F32, &[7.0]);
        assert_eq!(one.run()["y"], [3.0]);
    }

    #[test]
    fn integers_wrap_truncate_and_stay_exact() {
        let big = (1 << 53) + 1;
        assert_eq!(ints("add", DType::I64, &[big, i64::MAX], &[1, 1]), [big + 1, i64::MIN]);
        assert_eq!(ints("div", DType::I64, &[-7, 7, 3, i64::MIN], &[2, -2, 0, -1]), [-3, -3, 0, i64::MIN]);
        assert_eq!(ints("mod", DType::I64, &[-7, 7, 3], &[3, -3, 0]), [2, -2, 0]);
        assert_eq!(ints("fmod", DType::I32, &[-7, 7], &[3, -3]), [-1, 1]);
        assert_eq!(ints("sub", DType::U8, &[1], &[2]), [255]);
        assert_eq!(ints("max", DType::I64, &[big, 1], &[big - 1, 2]), [big, 2]);
    }

    #[test]
    fn bits() {
        assert_eq!(ints("bit_and", DType::I8, &[-1, 6], &[5, 3]), [5, 2]);
        assert_eq!(ints("bit_or", DType::U64, &[4, 6], &[1, 3]), [5, 7]);
        assert_eq!(ints("bit_xor", DType::U16, &[65535, 6], &[1, 3]), [65534, 5]);
        assert_eq!(ints("shift_left", DType::U8, &[129, 1, 1], &[1, 7, 8]), [2, 128, 0]);
        assert_eq!(ints("shift_right", DType::U32, &[9, 1 << 31, 1], &[1, 31, 32]), [4, 1, 0]);
        assert_eq!(ints("shift_right", DType::I8, &[-9, -9, 9, -9], &[1, 8, 8, -1]), [-5, -1, 0, -1]);
    }

    #[test]
    fn truth_values() {
        let pairs = ([0, 0, 1, 1], [0, 1, 0, 1]);
        assert_eq!(ints("and", DType::Bool, &pairs.0, &pairs.1), [0, 0, 0, 1]);
        assert_eq!(ints("or", DType::Bool, &pairs.0, &pairs.1), [0, 1, 1, 1]);
        assert_eq!(ints("xor", DType::Bool, &pairs.0, &pairs.1), [0, 1, 1, 0]);
        let compare = [
            ("equal", [0, 1, 0, 0]),
            ("less", [1, 0, 0, 0]),
            ("less_equal", [1, 1, 0, 0]),
            ("greater", [0, 0, 1, 0]),
            ("greater_equal", [0, 1, 1, 0]),
        ];
        for (op, want) in compare {
            let mut bench = bench(op, &[4], &[1], &[1]);
            bench.float("a", DType::F32, &[1.0, 2.0, 3.0, f64::NAN]);
            bench.float("b", DType::F32, &[2.0, 2.0, 2.0, 2.0]);
            bench.ints("y", DType::Bool, &[9; 4]);
            assert_eq!(bench.run_ints()["y"], want, "{op}");
        }
    }

    #[test]
    fn extremes_keep_nan() {
        for op in ["min", "max"] {
            let mut bench = bench(op, &[2], &[1], &[1]);
            bench.float("a", DType::F32, &[f64::NAN, 1.0]);
            bench.float("b", DType::F32, &[1.0, f64::NAN]);
            bench.float("y", DType::F32, &[7.0; 2]);
            assert!(bench.run()["y"].iter().all(|y| y.is_nan()), "{op}");
        }
    }
}
