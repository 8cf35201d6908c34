//! `dx[o, index[j, t], i] += weight[j, t] * dy[o, j, i]` from zero: the gradient of the kernel `resample`, with its
//! scalars.
//!
//! Terms of one element are added in the order of `j`, then of `t`.

mod cpu;
mod cuda;

use crate::{Arg, Call, DType, Kernel, Types, resample};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "resample_grad",
    args: &[
        Arg::read("dy", Types::Float),
        Arg::read("index", Types::Only(DType::I32)),
        Arg::read("weight", Types::Only(DType::F32)),
        Arg::write("dx", Types::Float),
    ],
    scalars: resample::SCALARS,
    admits: |t| t.agree(),
    flops: |call: &Call<'_>| 2 * (call.len("dy") * call.int("taps")) as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::harness::{Bench, assert_close, noise};
    use crate::resample::taps;
    use crate::{DType, Scalar, resample_grad::KERNEL};

    #[test]
    fn is_the_transpose_of_resampling() {
        for [outer, n_in, n_out, inner] in
            [[1, 1, 1, 1], [2, 3, 6, 4], [3, 50, 25, 1], [40, 16, 32, 33], [900, 8, 16, 1]]
        {
            let (index, weight) = taps(n_in, n_out);
            let dy = noise(outer * n_out * inner, 1);
            let mut want = vec![0.0; outer * n_in * inner];
            for (at, dy) in dy.iter().enumerate() {
                let (o, j, i) = (at / inner / n_out, at / inner % n_out, at % inner);
                for t in (0..3).map(|t| j * 3 + t).filter(|t| index[*t] >= 0) {
                    want[(o * n_in + index[t] as usize) * inner + i] += weight[t] * dy;
                }
            }
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-14)] {
                let scalars = [outer, n_in, n_out, inner, 3].map(|v| Scalar::Int(v as i64)).to_vec();
                let mut bench = Bench::new(&KERNEL, scalars);
                bench.float("dy", dtype, &dy);
                bench.ints("index", DType::I32, &index);
                bench.float("weight", DType::F32, &weight);
                bench.float("dx", dtype, &vec![7.0; want.len()]);
                assert_close(&bench.run()["dx"], &want, tolerance);
            }
        }
    }
}
