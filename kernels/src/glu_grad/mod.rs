//! The gradient of the kernel `glu`, in the place of its operand: `x` becomes `dx`, where the half `a` of a row becomes `dy * op(b)` and the
//! half `b` becomes `dy * a * op'(b)`.
//!
//! Shapes and scalars are those of [`mod@crate::glu`], `dy` is `[outer, n]`. The bits are those of [`mod@crate::unary`],
//! [`mod@crate::unary_grad`] and products; both may be rounded to bfloat16.

mod cpu;
mod cuda;

use crate::function::WORDS;
use crate::glu::SCALARS;
use crate::{Arg, Call, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "glu_grad",
    args: &[Arg::read("dy", Types::Rounded), Arg::update("x", Types::Rounded)],
    scalars: SCALARS,
    admits: |t| t.agree() && WORDS.contains(&t.word("op")),
    flops: |call: &Call<'_>| 5 * call.len("dy") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::glu::tests::{CASES, apply, function, halves, product, scalars};
    use crate::harness::{Bench, assert_same_bits, noise};
    use crate::{DType, unary_grad};

    #[test]
    fn gives_the_bits_of_functions_and_products() {
        for (rows, n, gate) in CASES {
            let x: Vec<f64> = noise(2 * rows * n, 1).iter().map(|v| 3.0 * v).collect();
            let dy = noise(rows * n, 2);
            let [a, b] = halves(&x, n, gate);
            for (op, dtype) in [("gelu", DType::F32), ("silu", DType::F64), ("sigmoid", DType::F32)] {
                let first = product(dtype, &dy, &function(dtype, op, &b));
                let slopes = Bench::new(&unary_grad::KERNEL, scalars(op, 0, 0)[..3].to_vec());
                let args = [("x", b.as_slice()), ("dy", &product(dtype, &dy, &a)), ("dx", &dy)];
                let second = apply(slopes, dtype, &args);
                let bench = Bench::new(&KERNEL, scalars(op, n, gate));
                let got = halves(&apply(bench, dtype, &[("dy", &dy), ("x", &x)]), n, gate);
                assert_same_bits(&got[0], first.into_iter());
                assert_same_bits(&got[1], second.into_iter());
            }
        }
    }

    #[test]
    fn both_may_be_rounded() {
        for (rows, n, gate) in CASES {
            let mut bench = Bench::new(&KERNEL, scalars("gelu", n, gate));
            bench.float("dy", DType::F32, &noise(rows * n, 2));
            bench.float("x", DType::F32, &noise(2 * rows * n, 1));
            [&["x"][..], &["dy"], &["x", "dy"]].iter().for_each(|names| bench.assert_rounded(names));
        }
    }
}
