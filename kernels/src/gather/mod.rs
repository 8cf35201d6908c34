//! `y[o, j, i] = x[o, index[j], i]` (ONNX Gather).
//!
//! `x` is `[outer, axis, inner]` and `y` is `[outer, len(index), inner]`. Negative indices count from the end;
//! where an index is out of range the result is NaN, or zero for integers.

mod cpu;
mod cuda;

use crate::{Arg, DType, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "gather",
    args: &[
        Arg::read("x", Types::Any).accessed(|call| call.len("y") as u64),
        Arg::read("index", Types::Only(DType::I64)),
        Arg::write("y", Types::Any),
    ],
    scalars: &[("outer", ScalarKind::Int), ("axis", ScalarKind::Int), ("inner", ScalarKind::Int)],
    admits: |t| t.agree(),
    flops: |_| 0,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// The row of an axis of `axis` rows that `index` means, if there is one.
pub(crate) fn row(index: i64, axis: usize) -> Option<usize> {
    let index = if index < 0 { index + axis as i64 } else { index };
    usize::try_from(index).ok().filter(|i| *i < axis)
}

#[cfg(test)]
mod tests {
    use crate::harness::Bench;
    use crate::{DType, Scalar, gather::KERNEL};

    #[test]
    fn gathers_rows() {
        for (outer, axis, inner) in [(1, 5, 1), (2, 3, 4), (3, 7, 3000), (400, 5, 11), (2, 4, 0)] {
            let x: Vec<i64> = (0..outer * axis * inner).map(|i| i % 127).collect();
            let index = [1, -1, 0, 0, 2, -axis, axis - 1];
            let want: Vec<i64> = (0..outer)
                .flat_map(|o| index.map(|j| (o, j.rem_euclid(axis))))
                .flat_map(|(o, j)| x[((o * axis + j) * inner) as usize..][..inner as usize].to_vec())
                .collect();
            for &dtype in DType::ALL.iter().filter(|d| **d != DType::Bool && !d.is_half()) {
                let mut bench = Bench::new(&KERNEL, [outer, axis, inner].map(Scalar::Int).to_vec());
                bench.ints("x", dtype, &x);
                bench.ints("index", DType::I64, &index);
                bench.ints("y", dtype, &vec![99; want.len()]);
                assert_eq!(bench.run_ints()["y"], want, "{dtype}");
            }
        }
    }

    #[test]
    fn indices_out_of_range() {
        let index = [3, -4, i64::MAX, i64::MIN, 2];
        let mut bench = Bench::new(&KERNEL, [1, 3, 1].map(Scalar::Int).to_vec());
        bench.float("x", DType::F32, &[1.0, 2.0, 3.0]);
        bench.ints("index", DType::I64, &index);
        bench.float("y", DType::F32, &[7.0; 5]);
        let got = &bench.run()["y"];
        assert!(got[..4].iter().all(|y| y.is_nan()) && got[4] == 3.0);
        let mut bench = Bench::new(&KERNEL, [1, 3, 1].map(Scalar::Int).to_vec());
        bench.ints("x", DType::I64, &[1, 2, 3]);
        bench.ints("index", DType::I64, &index);
        bench.ints("y", DType::I64, &[7; 5]);
        assert_eq!(bench.run_ints()["y"], [0, 0, 0, 0, 3]);
    }
}
