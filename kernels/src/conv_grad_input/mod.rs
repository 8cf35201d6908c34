//! Gradient of a convolution with respect to its input; also the forward pass of a transposed convolution (ONNX
//! ConvTranspose).
//!
//! `dx[b,c,i] = sum over o, t of w[o,c,t] * dy[b,o,(i + pads - t*dilations) / strides]`, over the `o` of the group
//! of `c` and the `t` for which the index is whole and within `dy`. Shapes are those of the convolution.

mod cpu;
mod cuda;

use crate::conv::{Geometry, geometry};
use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "conv_grad_input",
    args: &[Arg::read("dy", Types::Float), Arg::read("w", Types::Float), Arg::write("dx", Types::Float)],
    scalars: geometry::SCALARS,
    flops: |call| Geometry::of(call).flops(),
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::conv::tests::{each, scalars, shapes};
    use crate::harness::{Bench, assert_close, noise};

    #[test]
    fn matches_a_naive_loop() {
        for g in shapes() {
            let dy = noise(g.n * g.co * g.output_len(), 1);
            let w = noise(g.co * g.ci_group() * g.taps(), 2);
            let mut want = vec![0.0; g.n * g.ci * g.input_len()];
            each(&g, |xi, wi, yi| want[xi] += dy[yi] * w[wi]);
            for dtype in [DType::F32, DType::F64] {
                let mut bench = Bench::new(&KERNEL, scalars(&g));
                bench.float("dy", dtype, &dy);
                bench.float("w", dtype, &w);
                bench.float("dx", dtype, &vec![f64::NAN; want.len()]);
                let tolerance = if dtype == DType::F32 { 2e-5 } else { 1e-12 };
                assert_close(&bench.run()["dx"], &want, tolerance);
            }
        }
    }
}
