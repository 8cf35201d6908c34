//! `y = cond ? a : b` with broadcasting (ONNX Where).
//!
//! `shape` is that of `y`; the strides hold the distance in elements between neighbours of each operand along each
//! dimension, 0 where it is broadcast.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, DType, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "select",
    args: &[
        Arg::read("cond", Types::Only(DType::Bool)),
        Arg::read("a", Types::Any),
        Arg::read("b", Types::Any),
        Arg::write("y", Types::Any),
    ],
    scalars: &[
        ("shape", ScalarKind::Ints),
        ("cond_strides", ScalarKind::Ints),
        ("a_strides", ScalarKind::Ints),
        ("b_strides", ScalarKind::Ints),
    ],
    admits: |t| t.agree(),
    flops: |_| 0,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::harness::{Bench, indices};
    use crate::{DType, Scalar, select::KERNEL};

    #[test]
    fn selects_with_broadcasting() {
        let shape = [3, 4, 5];
        let strides = [[4_i64, 1, 0], [20, 5, 1], [0, 0, 1]];
        let (cond, a, b): (Vec<i64>, Vec<i64>, Vec<i64>) =
            ((0..12).map(|i| i * 7 % 3 % 2).collect(), (0..60).collect(), (60..65).collect());
        let at = |i: &[i64], s: &[i64]| i.iter().zip(s).map(|(i, s)| i * s).sum::<i64>() as usize;
        let pick = |i: &Vec<i64>| {
            if cond[at(i, &strides[0])] != 0 { a[at(i, &strides[1])] } else { b[at(i, &strides[2])] }
        };
        let want: Vec<i64> = indices(&shape).iter().map(pick).collect();
        for &dtype in DType::ALL.iter().filter(|d| **d != DType::Bool && !d.is_half()) {
            let lists = [&shape, &strides[0], &strides[1], &strides[2]].map(|l| Scalar::Ints(l.to_vec()));
            let mut bench = Bench::new(&KERNEL, lists.to_vec());
            bench.ints("cond", DType::Bool, &cond);
            bench.ints("a", dtype, &a);
            bench.ints("b", dtype, &b);
            bench.ints("y", dtype, &[99; 60]);
            assert_eq!(bench.run_ints()["y"], want, "{dtype}");
        }
    }

    #[test]
    fn the_other_branch_does_not_leak() {
        let lists = [&[40_001], &[1], &[0], &[1]].map(|l: &[i64; 1]| Scalar::Ints(l.to_vec()));
        let mut bench = Bench::new(&KERNEL, lists.to_vec());
        bench.ints("cond", DType::Bool, &vec![1; 40_001]);
        bench.float("a", DType::F32, &[1.5]);
        bench.float("b", DType::F32, &vec![f64::NAN; 40_001]);
        bench.float("y", DType::F32, &vec![7.0; 40_001]);
        assert_eq!(bench.run()["y"], vec![1.5; 40_001]);
    }
}
