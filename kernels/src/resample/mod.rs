//! `y[o, j, i] = sum_t weight[j, t] * x[o, index[j, t], i]`: linear resampling along one axis (ONNX Resize,
//! Upsample, AveragePool, Pad).
//!
//! `x` is `[outer, n_in, inner]`, `y` is `[outer, n_out, inner]`, `index` and `weight` are `[n_out, taps]`. A tap
//! with a negative index contributes nothing.

pub(crate) mod cpu;
mod cuda;

use crate::{Arg, Call, DType, Kernel, ScalarKind, Types};

/// The scalars, which the gradient shares.
pub(crate) const SCALARS: &[(&str, ScalarKind)] = &[
    ("outer", ScalarKind::Int),
    ("n_in", ScalarKind::Int),
    ("n_out", ScalarKind::Int),
    ("inner", ScalarKind::Int),
    ("taps", ScalarKind::Int),
];

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "resample",
    args: &[
        Arg::read("x", Types::Float),
        Arg::read("index", Types::Only(DType::I32)),
        Arg::read("weight", Types::Only(DType::F32)),
        Arg::write("y", Types::Float),
    ],
    scalars: SCALARS,
    admits: |t| t.agree(),
    flops: |call: &Call<'_>| 2 * (call.len("y") * call.int("taps")) as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// A table of taps for tests: `(index, weight)` of three taps for each of `n_out` results, some absent.
#[cfg(test)]
pub(crate) fn taps(n_in: usize, n_out: usize) -> (Vec<i64>, Vec<f64>) {
    let index = (0..n_out * 3).map(|t| ((t * 5 + t / 3) % (n_in + 1)) as i64 - 1).collect();
    (index, crate::harness::noise(n_out * 3, 8))
}

#[cfg(test)]
mod tests {
    use super::taps;
    use crate::harness::{Bench, assert_close, noise};
    use crate::{DType, Scalar, resample::KERNEL};

    #[test]
    fn weighs_its_taps() {
        for [outer, n_in, n_out, inner] in
            [[1, 1, 1, 1], [2, 3, 6, 4], [3, 50, 25, 1], [40, 16, 32, 33], [700, 8, 16, 1]]
        {
            let (index, weight) = taps(n_in, n_out);
            let x = noise(outer * n_in * inner, 1);
            let mut want = vec![0.0; outer * n_out * inner];
            for (at, want) in want.iter_mut().enumerate() {
                let (o, j, i) = (at / inner / n_out, at / inner % n_out, at % inner);
                for t in (0..3).map(|t| j * 3 + t).filter(|t| index[*t] >= 0) {
                    *want += weight[t] * x[(o * n_in + index[t] as usize) * inner + i];
                }
            }
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-14)] {
                let scalars = [outer, n_in, n_out, inner, 3].map(|v| Scalar::Int(v as i64)).to_vec();
                let mut bench = Bench::new(&KERNEL, scalars);
                bench.float("x", dtype, &x);
                bench.ints("index", DType::I32, &index);
                bench.float("weight", DType::F32, &weight);
                bench.float("y", dtype, &vec![7.0; want.len()]);
                assert_close(&bench.run()["y"], &want, tolerance);
            }
        }
    }
}
