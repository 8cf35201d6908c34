//! Strided copy: `y[y_offset + sum_d i_d * y_strides[d]] = x[x_offset + sum_d i_d * x_strides[d]]` for every index
//! `i` of `shape` (ONNX Transpose, Slice, Concat, Split, Expand, Pad, Tile, DepthToSpace).
//!
//! Strides count elements and may be zero or negative; any rank is admitted, none at all copies one element.
//! Elements of `y` that no index reaches keep their value. Where several indices reach the same element of `y`, the
//! last one stays.

mod cpu;
pub(crate) mod cuda;

use crate::{Arg, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "copy",
    args: &[
        Arg::read("x", Types::Stored),
        Arg::update("y", Types::Stored).fresh(|call| Some(call.reached("shape", "y_strides"))),
    ],
    scalars: &[
        ("shape", ScalarKind::Ints),
        ("x_offset", ScalarKind::Int),
        ("x_strides", ScalarKind::Ints),
        ("y_offset", ScalarKind::Int),
        ("y_strides", ScalarKind::Ints),
    ],
    admits: |t| t.dtype("x") == t.dtype("y"),
    flops: |_| 0,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::harness::{Bench, HALVES, indices, noise, rounded};
    use crate::{DType, Scalar, copy::KERNEL};

    /// Copies between buffers of just the size that is reached and compares with a loop over all indices.
    fn check(shape: &[i64], x_strides: &[i64], y_strides: &[i64]) {
        let low = |s: &[i64]| -> i64 { s.iter().zip(shape).map(|(s, n)| (s * (n - 1)).min(0)).sum() };
        let high = |s: &[i64]| -> i64 { s.iter().zip(shape).map(|(s, n)| (s * (n - 1)).max(0)).sum() };
        let empty = shape.contains(&0);
        let (x_offset, y_offset) = if empty { (0, 0) } else { (-low(x_strides), -low(y_strides)) };
        let size = |s: &[i64]| if empty { 1 } else { (high(s) - low(s) + 1) as usize };
        for dtype in [DType::F32, DType::I64, DType::Bool] {
            let modulus = if dtype == DType::Bool { 251 } else { 1 << 40 };
            let modulus = if dtype == DType::F32 { 1 << 23 } else { modulus };
            let x: Vec<i64> = (0..size(x_strides) as i64).map(|i| (i * 7 + 1) % modulus).collect();
            let y = vec![99; size(y_strides)];
            let mut want = y.clone();
            for index in indices(shape) {
                let dot = |s: &[i64]| -> i64 { s.iter().zip(&index).map(|(s, i)| s * i).sum() };
                want[(y_offset + dot(y_strides)) as usize] = x[(x_offset + dot(x_strides)) as usize];
            }
            let mut bench = Bench::new(
                &KERNEL,
                vec![
                    Scalar::Ints(shape.to_vec()),
                    Scalar::Int(x_offset),
                    Scalar::Ints(x_strides.to_vec()),
                    Scalar::Int(y_offset),
                    Scalar::Ints(y_strides.to_vec()),
                ],
            );
            bench.ints("x", dtype, &x);
            bench.ints("y", dtype, &y);
            assert_eq!(bench.run_ints()["y"], want, "{dtype} {shape:?} {x_strides:?} {y_strides:?}");
        }
    }

    #[test]
    fn halves_are_moved_as_they_are() {
        for half in HALVES {
            let lists = [[30, 50], [1, 30], [50, 1]].map(|list: [i64; 2]| Scalar::Ints(list.to_vec()));
            let [shape, x_strides, y_strides] = lists;
            let mut bench = Bench::new(&KERNEL, vec![shape, Scalar::Int(0), x_strides, Scalar::Int(0), y_strides]);
            let x = noise(1500, 1);
            bench.float("x", half, &x);
            bench.float("y", half, &vec![f64::NAN; x.len()]);
            let want: Vec<f64> = (0..1500).map(|i| x[i / 50 + i % 50 * 30]).collect();
            assert_eq!(bench.run()["y"], rounded(half, &want));
        }
    }

    #[test]
    fn contiguous_and_broadcast() {
        check(&[], &[], &[]);
        check(&[1], &[5], &[3]);
        check(&[0], &[1], &[1]);
        check(&[3, 0, 2], &[2, 2, 1], &[2, 2, 1]);
        check(&[40_001], &[1], &[1]);
        check(&[5, 7], &[0, 1], &[7, 1]);
        check(&[5, 7], &[1, 0], &[7, 1]);
        check(&[3, 20_000], &[0, 0], &[20_000, 1]);
        check(&[2, 3, 4, 5, 6], &[360, 120, 30, 6, 1], &[360, 120, 30, 6, 1]);
    }

    #[test]
    fn slices_and_reversals() {
        check(&[4, 5], &[-5, 1], &[5, 1]);
        check(&[4, 5], &[5, -1], &[5, 1]);
        check(&[9, 11], &[22, -2], &[-11, 1]);
        check(&[9, 11], &[11, 1], &[40, 3]);
        check(&[300, 101], &[101, 1], &[-202, -2]);
        check(&[17, 3000], &[3000, 1], &[1, -17]);
    }

    #[test]
    fn permutations() {
        check(&[13, 9], &[9, 1], &[1, 13]);
        check(&[131, 257], &[257, 1], &[1, 131]);
        check(&[257, 131], &[1, 257], &[131, 1]);
        check(&[257, 131], &[1, 257], &[-131, 1]);
        check(&[3, 9_000], &[1, 3], &[9_000, 1]);
        check(&[9_000, 3], &[1, 9_000], &[3, 1]);
        check(&[5, 19, 33], &[1, 5, 95], &[627, 33, 1]);
        check(&[2, 5, 19, 33], &[3135, 627, 33, 1], &[3135, 1, 165, 5]);
        check(&[2, 3, 7, 40], &[840, 40, 120, 1], &[840, 280, 40, 1]);
        check(&[2, 8, 64, 40], &[20_480, 40, 320, 1], &[20_480, 2560, 40, 1]);
        check(&[2, 1, 3, 2, 2, 1, 3, 2], &[1, 9, 4, 12, 2, 5, 24, 72], &[72, 72, 24, 12, 6, 6, 2, 1]);
    }

    #[test]
    fn the_last_of_several_writes_stays() {
        check(&[6, 4], &[4, 1], &[0, 1]);
        check(&[4, 3], &[3, 1], &[1, 1]);
        check(&[200, 300], &[300, 1], &[1, 1]);
    }
}
