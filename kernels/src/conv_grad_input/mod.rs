//! Gradient of a convolution with respect to its input; also the forward pass of a transposed convolution (ONNX
//! ConvTranspose).
//!
//! `dx[b,c,i] = sum over o, t of w[o,c,t] * dy[b,o,(i + pads - t*dilations) / strides]`, over the `o` of the group
//! of `c` and the `t` for which the index is whole and within `dy`. Shapes are those of the convolution. `dy` is in bfloat16 only where
//! the weights are, and is the numbers it holds.

mod cpu;
mod cuda;

use crate::conv::{Geometry, geometry, planes, winograd};
use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "conv_grad_input",
    args: &[
        Arg::read("dy", Types::Rounded),
        Arg::read("w", Types::Weight),
        Arg::write("dx", Types::Float),
        Arg::write("work", Types::Float).or_none(),
    ],
    scalars: geometry::SCALARS,
    admits: |t| t.agree() && (t.dtype("dy") != DType::Bf16 || t.dtype("w") == DType::Bf16),
    flops: |call| Geometry::of(call).flops(),
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Elements that `work` must have; without any the kernel needs no `work`.
pub fn work_len(g: &Geometry) -> usize {
    planes::work_len(g, true).max(winograd::work_len(g, true))
}

#[cfg(test)]
mod tests {
    use super::{KERNEL, work_len};
    use crate::DType;
    use crate::conv::tests::{each, rounds, scalars, shapes, tolerance, transformed};
    use crate::harness::{Bench, HALVES, assert_close, assert_same_bits, halves};

    #[test]
    fn a_source_in_bfloat16_is_the_numbers_it_holds() {
        for g in shapes().into_iter().chain(transformed()) {
            let (dy, w) = (halves(g.n * g.co * g.output_len(), 1), halves(g.co * g.ci_group() * g.taps(), 2));
            let of = |read: DType| {
                let mut bench = Bench::new(&KERNEL, scalars(&g));
                bench.on_cpu_alone();
                bench.float("dy", read, &dy);
                bench.float("w", DType::Bf16, &w);
                bench.float("dx", DType::F32, &vec![f64::NAN; g.n * g.ci * g.input_len()]);
                bench.float("work", DType::F32, &vec![f64::NAN; work_len(&g)]);
                bench.run()["dx"].clone()
            };
            assert_same_bits(&of(DType::Bf16), of(DType::F32).into_iter());
        }
    }

    #[test]
    fn matches_a_naive_loop() {
        assert!(transformed().iter().all(|g| work_len(g) > 0));
        for g in shapes().into_iter().chain(transformed()) {
            let dy = halves(g.n * g.co * g.output_len(), 1);
            // Values that half precision holds too.
            let w = halves(g.co * g.ci_group() * g.taps(), 2);
            let mut want = vec![0.0; g.n * g.ci * g.input_len()];
            each(&g, |xi, wi, yi| want[xi] += dy[yi] * w[wi]);
            let same = [DType::F32, DType::F64].map(|dtype| (dtype, dtype, dtype));
            let weights = HALVES.map(|half| (DType::F32, half, DType::F32));
            let both = (DType::Bf16, DType::Bf16, DType::F32);
            for (read, stored, dtype) in same.into_iter().chain(weights).chain([both]) {
                let mut bench = Bench::new(&KERNEL, scalars(&g));
                bench.float("dy", read, &dy);
                bench.float("w", stored, &w);
                bench.float("dx", dtype, &vec![f64::NAN; want.len()]);
                bench.float("work", dtype, &vec![f64::NAN; work_len(&g)]);
                if stored == DType::Bf16 && rounds(&g, true) {
                    bench.cuda_tolerance(tolerance(&g, true, stored));
                }
                assert_close(&bench.run()["dx"], &want, tolerance(&g, true, stored));
            }
        }
    }
}
