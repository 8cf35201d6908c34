//! `y[i] = op(x[i])` (ONNX Neg, Abs, Sign, Floor, Ceil, Round, Exp, Log, Sqrt, Reciprocal, Sin, Cos, Tan, Asin,
//! Acos, Atan, Sinh, Cosh, Asinh, Acosh, Atanh, Tanh, Sigmoid, Erf, Relu, LeakyRelu, Elu, Celu, Selu, Softplus, Softsign, HardSigmoid,
//! HardSwish, Mish, Gelu, Clip, Not, BitwiseNot).
//!
//! The word `op` names the function. `alpha` is the parameter of `leaky_relu`, `elu`, `celu`, `selu` (whose gamma
//! is `beta`), `hard_sigmoid` (`alpha * x + beta`) and `quick_gelu` (`x * sigmoid(alpha * x)`); `clip` keeps
//! `alpha..=beta`. `round` takes the even one of two integers equally near. `not` takes truth values. Integers
//! know `neg`, `abs` (both wrap), `sign`, `relu`, `clip`, `bit_not`, and `floor`, `ceil` and `round`, which leave them alone. `y` has the
//! type of `x`; both may be rounded to bfloat16 where they are `f32` otherwise.

mod cpu;
pub(crate) mod cuda;

use crate::function::WORDS;
use crate::{Arg, Call, DType, Kernel, ScalarKind, TypedCall, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "unary",
    args: &[Arg::read("x", Types::AnyRounded), Arg::write("y", Types::AnyRounded)],
    scalars: &[("op", ScalarKind::Word), ("alpha", ScalarKind::Float), ("beta", ScalarKind::Float)],
    admits,
    flops: |call: &Call<'_>| call.len("y") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Functions of integers.
const OF_INTEGERS: &[&str] = &["neg", "abs", "sign", "relu", "clip", "bit_not", "floor", "ceil", "round"];

fn admits(t: &TypedCall<'_>) -> bool {
    let (op, x) = (t.word("op"), t.dtype("x"));
    t.agree()
        && match op {
            "not" => x == DType::Bool,
            _ if x.computed().is_float() => WORDS.contains(&op),
            _ => OF_INTEGERS.contains(&op),
        }
}

/// The functions in double precision, straight from their definitions, for tests.
#[cfg(test)]
pub(crate) fn reference(op: &str, alpha: f64, beta: f64, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let limit = |y: f64| if y.is_nan() && !x.is_nan() { if x < 0.0 { -0.0 } else { x } } else { y };
    match op {
        "neg" => -x,
        "abs" => x.abs(),
        "sign" if x > 0.0 => 1.0,
        "sign" if x < 0.0 => -1.0,
        "sign" => x,
        "floor" => x.floor(),
        "ceil" => x.ceil(),
        "round" => x.round_ties_even(),
        "exp" => x.exp(),
        "log" => x.ln(),
        "sqrt" => x.sqrt(),
        "reciprocal" => 1.0 / x,
        "sin" => x.sin(),
        "cos" => x.cos(),
        "tan" => x.tan(),
        "asin" => x.asin(),
        "acos" => x.acos(),
        "atan" => x.atan(),
        "sinh" => x.sinh(),
        "cosh" => x.cosh(),
        "asinh" => x.asinh(),
        "acosh" => x.acosh(),
        "atanh" => x.atanh(),
        "tanh" => x.tanh(),
        "sigmoid" => sigmoid(x),
        "erf" => libm::erf(x),
        "relu" if x < 0.0 => 0.0,
        "relu" => x,
        "leaky_relu" => x * if x < 0.0 { alpha } else { 1.0 },
        "elu" if x < 0.0 => alpha * x.exp_m1(),
        "celu" if x < 0.0 => alpha * (x / alpha).exp_m1(),
        "selu" if x < 0.0 => beta * alpha * x.exp_m1(),
        "elu" | "celu" => x,
        "selu" => beta * x,
        "softplus" if x > 30.0 => x,
        "softplus" => x.exp().ln_1p(),
        "softsign" if x.is_infinite() => x.signum(),
        "softsign" => x / (1.0 + x.abs()),
        "hard_sigmoid" => (alpha * x + beta).clamp(0.0, 1.0),
        "hard_swish" => limit(x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "silu" => limit(x * sigmoid(x)),
        "mish" if x > 30.0 => x,
        "mish" => limit(x * x.exp().ln_1p().tanh()),
        "gelu" => limit(0.5 * x * libm::erfc(-x / 2_f64.sqrt())),
        "gelu_tanh" => limit(x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x))),
        "quick_gelu" => limit(x * sigmoid(alpha * x)),
        "clip" => x.clamp(alpha, beta),
        _ => panic!("{op}"),
    }
}

#[cfg(test)]
mod tests {
    use super::reference;
    use crate::function::WORDS;
    use crate::harness::{Bench, noise};
    use crate::{DType, Scalar, unary::KERNEL};

    fn bench(op: &str, alpha: f64, beta: f64) -> Bench {
        Bench::new(&KERNEL, vec![Scalar::Word(op.into()), Scalar::Float(alpha), Scalar::Float(beta)])
    }

    #[test]
    fn functions_match_their_definitions() {
        let mut x: Vec<f64> = (-1201..1202).map(|i| f64::from(i as f32 * 0.01)).collect();
        x.extend([1e-30, -1e-30, 1e-4, -1e-4, 0.0, -0.0, 50.0, -50.0, 300.0, -300.0, 1e4, -1e4, 1e30, -1e30]);
        x.extend([f64::INFINITY, f64::NEG_INFINITY, f64::NAN]);
        for &op in WORDS {
            let (alpha, beta) = match op {
                "hard_sigmoid" => (0.25, 0.5),
                "quick_gelu" => (1.75, 0.0),
                "clip" => (-1.5, 2.0),
                "selu" => (1.5, 1.25),
                _ => (0.5, 0.0),
            };
            for dtype in [DType::F32, DType::F64] {
                let mut bench = bench(op, alpha, beta);
                bench.float("x", dtype, &x);
                bench.float("y", dtype, &vec![7.0; x.len()]);
                let result = bench.run();
                let (seen, got) = (&result["x"], &result["y"]);
                let (least, tolerance) = if dtype == DType::F32 { (1e-37, 2e-6) } else { (1e-300, 1e-14) };
                for (&x, &got) in seen.iter().zip(got) {
                    let want = reference(op, alpha, beta, x);
                    let want = if dtype == DType::F32 { f64::from(want as f32) } else { want };
                    // Such functions lose what the rounding of their argument loses.
                    let slack = match op {
                        "gelu" | "gelu_tanh" | "quick_gelu" | "silu" | "mish" | "celu" if x < -2.0 => {
                            x.abs().min(100.0).powi(3)
                        }
                        _ => 1.0,
                    };
                    let near = (got - want).abs() <= tolerance * slack * want.abs() + least;
                    let same = got == want || got.is_nan() && want.is_nan();
                    assert!(near || same, "{op}({x}) = {got}, not {want} ({dtype})");
                }
            }
        }
    }

    #[test]
    fn large_negative_numbers_vanish_with_their_sign() {
        for op in ["silu", "gelu", "gelu_tanh", "mish", "quick_gelu"] {
            let mut bench = bench(op, 1.75, 0.0);
            bench.float("x", DType::F32, &[-1e4, f64::NEG_INFINITY]);
            bench.float("y", DType::F32, &[7.0; 2]);
            for got in &bench.run()["y"] {
                assert_eq!(got.to_bits(), (-0.0_f64).to_bits(), "{op}");
            }
        }
    }

    #[test]
    fn odd_lengths() {
        for len in [0, 1, 15, 17, 33, 40_001] {
            let x: Vec<f64> = (0..len).map(|i| f64::from(i % 100) - 50.0).collect();
            let mut bench = bench("relu", 0.0, 0.0);
            bench.float("x", DType::F32, &x);
            bench.float("y", DType::F32, &vec![7.0; x.len()]);
            assert_eq!(bench.run()["y"], x.iter().map(|x| x.max(0.0)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn operand_and_result_may_be_rounded() {
        for len in [0, 3, 1100, 40_001] {
            let mut bench = bench("silu", 0.0, 0.0);
            bench.float("x", DType::F32, &noise(len, 1));
            bench.float("y", DType::F32, &vec![7.0; len]);
            [&["x"][..], &["y"], &["x", "y"]].iter().for_each(|names| bench.assert_rounded(names));
        }
    }

    #[test]
    fn integers_stay_exact() {
        let big = (1 << 53) + 1;
        let run = |op: &str, dtype, x: &[i64]| {
            let mut bench = bench(op, -2.0, 3.0);
            bench.ints("x", dtype, x);
            bench.ints("y", dtype, &vec![9; x.len()]);
            bench.run_ints()["y"].clone()
        };
        assert_eq!(run("neg", DType::I64, &[big, -big, 0, i64::MIN]), [-big, big, 0, i64::MIN]);
        assert_eq!(run("abs", DType::I64, &[big, -big, 0]), [big, big, 0]);
        assert_eq!(run("abs", DType::U32, &[4_000_000_000]), [4_000_000_000]);
        assert_eq!(run("sign", DType::I32, &[5, -5, 0]), [1, -1, 0]);
        assert_eq!(run("sign", DType::U8, &[200, 0]), [1, 0]);
        assert_eq!(run("relu", DType::I64, &[big, -big]), [big, 0]);
        assert_eq!(run("round", DType::I64, &[big, -big]), [big, -big]);
        assert_eq!(run("clip", DType::I64, &[big, -big, 1, -2]), [3, -2, 1, -2]);
        assert_eq!(run("clip", DType::U8, &[0, 2, 200]), [0, 2, 3]);
        assert_eq!(run("not", DType::Bool, &[0, 1]), [1, 0]);
        assert_eq!(run("bit_not", DType::I16, &[0, -1, 5]), [-1, 0, -6]);
        assert_eq!(run("bit_not", DType::U16, &[0, 5]), [65535, 65530]);
        assert_eq!(run("neg", DType::I8, &[-128, 7]), [-128, -7]);
        let mut open = Bench::new(
            &KERNEL,
            vec![Scalar::Word("clip".into()), Scalar::Float(f64::NEG_INFINITY), Scalar::Float(f64::INFINITY)],
        );
        open.ints("x", DType::I64, &[i64::MAX, i64::MIN]);
        open.ints("y", DType::I64, &[9, 9]);
        assert_eq!(open.run_ints()["y"], [i64::MAX, i64::MIN]);
    }
}
