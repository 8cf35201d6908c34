//! `y = a * op(b)` for the halves `a` and `b` of each row of `x`: a gated linear unit (Dauphin et al. 2017, arXiv 1612.08083), and GEGLU,
//! SwiGLU and the others (Shazeer 2020, arXiv 2002.05202).
//!
//! `x` is `[outer, 2 n]` and `y` `[outer, n]`. `b` is the second half of a row if `gate` is 1, and the first if it is 0. `op`, `alpha` and
//! `beta` are those of [`mod@crate::unary`]. The bits are those of that kernel and a product; `x` and `y` may be rounded
//! to bfloat16.

mod cpu;
pub(crate) mod cuda;

use crate::function::WORDS;
use crate::{Arg, Call, Kernel, ScalarKind, Types};
use std::ops::Range;

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "glu",
    args: &[Arg::read("x", Types::Rounded), Arg::write("y", Types::Rounded)],
    scalars: SCALARS,
    admits: |t| t.agree() && WORDS.contains(&t.word("op")),
    flops: |call: &Call<'_>| 2 * call.len("y") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// The scalars of this kernel and its gradient.
pub(crate) const SCALARS: &[(&str, ScalarKind)] = &[
    ("op", ScalarKind::Word),
    ("alpha", ScalarKind::Float),
    ("beta", ScalarKind::Float),
    ("n", ScalarKind::Int),
    ("gate", ScalarKind::Int),
];

/// Where the halves of rows lie in `x`.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    n: usize,
    gate: usize,
}

impl Halves {
    /// The halves of `x`, each of which has as many elements as `half`.
    pub(crate) fn of(call: &Call<'_>, half: &str) -> Halves {
        let halves = Halves { n: call.int("n"), gate: call.int("gate") };
        let (whole, half) = (call.len("x"), call.len(half));
        let fits = whole == 2 * half && half.is_multiple_of(halves.n.max(1)) && halves.gate < 2;
        assert!(fits, "{whole} elements are no rows of two halves of {}, of which {} is one", halves.n, halves.gate);
        halves
    }

    /// For the elements `range` of `y`, row by row: how many there are, the first in `range`, and the first of `a` and of `b` in `x`.
    pub(crate) fn pieces(self, range: Range<usize>) -> impl Iterator<Item = (usize, usize, [usize; 2])> {
        let Halves { n, gate } = self;
        let mut at = range.start;
        std::iter::from_fn(move || {
            let (row, column) = (at / n.max(1), at % n.max(1));
            let len = (n - column).min(range.end - at);
            let first = 2 * row * n + column;
            let piece = (len, at - range.start, [first + (1 - gate) * n, first + gate * n]);
            at += len;
            (len > 0).then_some(piece)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::KERNEL;
    use crate::harness::{Bench, assert_same_bits, noise};
    use crate::{DType, Scalar, binary, unary};

    /// Rows, elements of half a row, and which half is the gate.
    pub(crate) const CASES: [(usize, usize, i64); 6] =
        [(3, 5, 1), (5, 3, 0), (1, 20_000, 1), (7, 1, 0), (0, 4, 1), (4, 0, 1)];

    pub(crate) fn scalars(op: &str, n: usize, gate: i64) -> Vec<Scalar> {
        let function = [Scalar::Word(op.into()), Scalar::Float(0.0), Scalar::Float(0.0)];
        [function.to_vec(), vec![Scalar::Int(n as i64), Scalar::Int(gate)]].concat()
    }

    /// The halves of the rows, the gate last.
    pub(crate) fn halves(x: &[f64], n: usize, gate: i64) -> [Vec<f64>; 2] {
        [1 - gate, gate].map(|half| {
            let rows = x.chunks(2 * n.max(1));
            rows.flat_map(|row| &row[half as usize * n..][..n]).copied().collect()
        })
    }

    /// What a kernel with these arguments of one shape makes of the last of them.
    pub(crate) fn apply(mut bench: Bench, dtype: DType, args: &[(&str, &[f64])]) -> Vec<f64> {
        args.iter().for_each(|(name, values)| bench.float(name, dtype, values));
        bench.run()[args[args.len() - 1].0].clone()
    }

    pub(crate) fn product(dtype: DType, a: &[f64], b: &[f64]) -> Vec<f64> {
        let list = |v: usize| Scalar::Ints(vec![v as i64]);
        let scalars = vec![Scalar::Word("mul".into()), list(a.len()), list(1), list(1)];
        let bench = Bench::new(&binary::KERNEL, scalars);
        apply(bench, dtype, &[("a", a), ("b", b), ("y", &vec![0.0; a.len()])])
    }

    pub(crate) fn function(dtype: DType, op: &str, x: &[f64]) -> Vec<f64> {
        let bench = Bench::new(&unary::KERNEL, scalars(op, 0, 0)[..3].to_vec());
        apply(bench, dtype, &[("x", x), ("y", &vec![0.0; x.len()])])
    }

    #[test]
    fn gives_the_bits_of_function_and_product() {
        for (rows, n, gate) in CASES {
            let x: Vec<f64> = noise(2 * rows * n, 1).iter().map(|v| 3.0 * v).collect();
            let [a, b] = halves(&x, n, gate);
            for (op, dtype) in [("gelu", DType::F32), ("silu", DType::F64), ("sigmoid", DType::F32)] {
                let want = product(dtype, &a, &function(dtype, op, &b));
                let bench = Bench::new(&KERNEL, scalars(op, n, gate));
                let got = apply(bench, dtype, &[("x", &x), ("y", &vec![f64::NAN; rows * n])]);
                assert_same_bits(&got, want.into_iter());
            }
        }
    }

    #[test]
    fn operand_and_result_may_be_rounded() {
        for (rows, n, gate) in CASES {
            let mut bench = Bench::new(&KERNEL, scalars("gelu", n, gate));
            bench.float("x", DType::F32, &noise(2 * rows * n, 1));
            bench.float("y", DType::F32, &vec![f64::NAN; rows * n]);
            [&["x"][..], &["y"], &["x", "y"]].iter().for_each(|names| bench.assert_rounded(names));
        }
    }
}
