//! `dx[i] = dy[i] * op'(x[i])`: the gradient of the kernel `unary`, with its words and parameters.
//!
//! At kinks the derivative is that of the lower side, except that `abs` has none and `clip` counts its ends as
//! inside. Where the derivative is zero the result is zero times `dy`. `x` may be rounded to bfloat16.

mod cpu;
pub(crate) mod cuda;

use crate::function::WORDS;
use crate::{Arg, Call, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "unary_grad",
    args: &[Arg::read("x", Types::Rounded), Arg::read("dy", Types::Float), Arg::write("dx", Types::Float)],
    scalars: &[("op", ScalarKind::Word), ("alpha", ScalarKind::Float), ("beta", ScalarKind::Float)],
    admits: |t| t.agree() && WORDS.contains(&t.word("op")),
    flops: |call: &Call<'_>| 2 * call.len("dx") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::function::WORDS;
    use crate::harness::{Bench, noise};
    use crate::unary::reference;
    use crate::{DType, Scalar, unary_grad::KERNEL};

    fn bench(op: &str, alpha: f64, beta: f64, dtype: DType, x: &[f64], dy: &[f64]) -> Bench {
        let scalars = vec![Scalar::Word(op.into()), Scalar::Float(alpha), Scalar::Float(beta)];
        let mut bench = Bench::new(&KERNEL, scalars);
        bench.float("x", dtype, x);
        bench.float("dy", dtype, dy);
        bench.float("dx", dtype, &vec![7.0; x.len()]);
        bench
    }

    fn slopes(op: &str, alpha: f64, beta: f64, dtype: DType, x: &[f64], dy: &[f64]) -> Vec<f64> {
        bench(op, alpha, beta, dtype, x, dy).run()["dx"].clone()
    }

    #[test]
    fn the_operand_may_be_rounded() {
        for len in [0, 3, 1100, 40_001] {
            bench("silu", 0.0, 0.0, DType::F32, &noise(len, 1), &noise(len, 2)).assert_rounded(&["x"]);
        }
    }

    #[test]
    fn gradients_match_differences() {
        for &op in WORDS {
            let (alpha, beta) = match op {
                "hard_sigmoid" => (0.25, 0.5),
                "quick_gelu" => (1.75, 0.0),
                "clip" => (-1.5, 2.0),
                "selu" => (1.5, 1.25),
                _ => (0.5, 0.0),
            };
            // The grid keeps away from kinks and poles.
            let (scale, shift) = match op {
                "asin" | "acos" | "atanh" => (0.009, 0.0),
                "acosh" => (0.03, 4.1),
                "log" | "sqrt" => (0.03, 3.1),
                "tan" => (0.013, 0.0),
                _ => (0.05, 0.0),
            };
            let x: Vec<f64> = (-100..101).map(|i| f64::from((f64::from(i) * scale + shift + 0.003) as f32)).collect();
            let dy = noise(x.len(), 3);
            for dtype in [DType::F32, DType::F64] {
                let got = slopes(op, alpha, beta, dtype, &x, &dy);
                for ((&x, &dy), &got) in x.iter().zip(&dy).zip(&got) {
                    let h = 1e-3;
                    let f = |x: f64| reference(op, alpha, beta, x);
                    let central = |h: f64| (f(x + h) - f(x - h)) / (2.0 * h);
                    let want = dy * (4.0 * central(h / 2.0) - central(h)) / 3.0;
                    let tolerance = if dtype == DType::F32 { 2e-6 } else { 1e-9 };
                    // Poles amplify the error of the differences.
                    let curved =
                        if matches!(op, "log" | "sqrt" | "reciprocal" | "asin" | "acos" | "acosh" | "atanh" | "tan") {
                            4.0 * (want / dy).abs().powi(4)
                        } else {
                            0.0
                        };
                    let close = (got - want).abs() <= tolerance * (1.0 + want.abs()) + 1e-9 * curved;
                    assert!(close, "{op}'({x}) * {dy} = {got}, not {want} ({dtype})");
                }
            }
        }
    }

    #[test]
    fn large_arguments() {
        let x = [1e4, -1e4, 1e30, -1e30, f64::INFINITY, f64::NEG_INFINITY];
        for op in ["silu", "gelu", "gelu_tanh", "mish", "quick_gelu", "softplus", "hard_swish", "relu"] {
            let got = slopes(op, 1.75, 0.0, DType::F32, &x, &[2.0; 6]);
            assert_eq!(got, [2.0, 0.0, 2.0, 0.0, 2.0, 0.0], "{op}");
        }
        for op in ["tanh", "sigmoid", "erf", "softsign", "clip", "hard_sigmoid"] {
            let got = slopes(op, -1.0, 1.0, DType::F32, &x, &[2.0; 6]);
            assert!(got.iter().all(|g| g.abs() < 1e-7), "{op}: {got:?}");
        }
        for &op in WORDS {
            if !matches!(op, "neg" | "clip") {
                assert!(slopes(op, 0.5, 0.5, DType::F32, &[f64::NAN], &[1.0])[0].is_nan(), "{op}");
            }
        }
    }

    #[test]
    fn kinks() {
        let at = |op: &str, x: f64| slopes(op, -1.5, 2.0, DType::F32, &[x], &[3.0])[0];
        assert_eq!(at("abs", 0.0), 0.0);
        assert_eq!(at("relu", 0.0), 0.0);
        assert_eq!(at("leaky_relu", 0.0), -4.5);
        assert_eq!(at("clip", -1.5), 3.0);
        assert_eq!(at("clip", 2.0), 3.0);
        assert_eq!(at("clip", 2.5), 0.0);
        assert_eq!(at("hard_swish", 3.0), 3.0);
        assert_eq!(at("hard_swish", -3.0), 0.0);
    }

    #[test]
    fn odd_lengths() {
        for len in [0, 1, 17, 40_001] {
            let (x, dy) = (noise(len, 1), noise(len, 2));
            let want: Vec<f64> = x.iter().zip(&dy).map(|(&x, &dy)| if x > 0.0 { dy } else { 0.0 }).collect();
            assert_eq!(slopes("relu", 0.0, 0.0, DType::F32, &x, &dy), want);
        }
    }
}
