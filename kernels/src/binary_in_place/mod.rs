//! `y = op(y, b)` with `b` broadcast: a sum or product that replaces its first operand.
//!
//! `op` is `add` or `mul`. `shape` is that of `y`, which is contiguous; `b_strides` holds the distance in elements between
//! neighbours of `b` along each dimension, 0 where it is broadcast. Results are those of [`mod@crate::binary`].

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "binary_in_place",
    args: &[Arg::read("b", Types::Float), Arg::update("y", Types::Float)],
    scalars: &[("op", ScalarKind::Word), ("shape", ScalarKind::Ints), ("b_strides", ScalarKind::Ints)],
    admits: |t| t.agree() && matches!(t.word("op"), "add" | "mul"),
    flops: |call| call.len("y") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::harness::{Bench, assert_same_bits, noise};
    use crate::{DType, Scalar, binary};

    #[test]
    fn gives_the_bits_of_the_other_form() {
        let cases: [(&[i64], &[i64]); 6] = [
            (&[40_000], &[1]),
            (&[3, 70], &[0, 1]),
            (&[70, 3], &[1, 0]),
            (&[5, 9, 4], &[0, 4, 1]),
            (&[2, 3, 4], &[1, 2, 0]),
            (&[2, 0], &[0, 0]),
        ];
        for (shape, strides) in cases {
            let len: i64 = shape.iter().product();
            let (y, b) = (noise(len as usize, 1), noise(len as usize, 2));
            let own: Vec<i64> = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
            for op in ["add", "mul"] {
                for dtype in [DType::F32, DType::F64] {
                    let word = Scalar::Word(op.into());
                    let lists = |lists: &[&[i64]]| lists.iter().map(|l| Scalar::Ints(l.to_vec())).collect::<Vec<_>>();
                    let mut other =
                        Bench::new(&binary::KERNEL, [vec![word.clone()], lists(&[shape, &own, strides])].concat());
                    other.float("a", dtype, &y);
                    other.float("b", dtype, &b);
                    other.float("y", dtype, &vec![0.0; y.len()]);
                    let mut bench = Bench::new(&KERNEL, [vec![word], lists(&[shape, strides])].concat());
                    bench.float("b", dtype, &b);
                    bench.float("y", dtype, &y);
                    assert_same_bits(&bench.run()["y"], other.run()["y"].iter().copied());
                }
            }
        }
    }
}
