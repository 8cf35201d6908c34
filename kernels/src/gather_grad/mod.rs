//! `dx[o, index[j], i] += dy[o, j, i]` from zero: the gradient of the kernel `gather`, with its scalars.
//!
//! Terms of one element are added in the order of `j`. Indices out of range contribute nothing.

mod cpu;
mod cuda;

use crate::{Arg, Call, DType, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "gather_grad",
    args: &[Arg::read("dy", Types::Float), Arg::read("index", Types::Only(DType::I64)), Arg::write("dx", Types::Float)],
    scalars: &[("outer", ScalarKind::Int), ("axis", ScalarKind::Int), ("inner", ScalarKind::Int)],
    admits: |t| t.agree(),
    flops: |call: &Call<'_>| call.len("dy") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::harness::{Bench, assert_close, noise};
    use crate::{DType, Scalar, gather_grad::KERNEL};

    #[test]
    fn is_the_transpose_of_gathering() {
        for (outer, axis, inner) in [(1_usize, 5_usize, 1_usize), (2, 3, 4), (3, 700, 30), (40, 5, 1100), (2, 4, 0)] {
            let last = axis as i64 - 1;
            let index = [1, -1, 0, 0, last, 99_999, 0];
            let dy = noise(outer * index.len() * inner, 1);
            let mut want = vec![0.0; outer * axis * inner];
            for o in 0..outer {
                for (j, &to) in index.iter().enumerate().filter(|(_, to)| **to <= last) {
                    let to = to.rem_euclid(axis as i64) as usize;
                    for i in 0..inner {
                        want[(o * axis + to) * inner + i] += dy[(o * index.len() + j) * inner + i];
                    }
                }
            }
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 0.0)] {
                let scalars = [outer, axis, inner].map(|v| Scalar::Int(v as i64)).to_vec();
                let mut bench = Bench::new(&KERNEL, scalars);
                bench.float("dy", dtype, &dy);
                bench.ints("index", DType::I64, &index);
                bench.float("dx", dtype, &vec![7.0; want.len()]);
                assert_close(&bench.run()["dx"], &want, tolerance);
            }
        }
    }
}
