//! Dense gradient of a convolution's weight. Training does not use it; tests and inspection do.
//!
//! `dw[o,c,t] = sum over b, p of dy[b,o,p] * x[b, g*ci/groups + c, p*strides + t*dilations - pads]`, where `g` is
//! the group of `o`. Shapes are those of the convolution.

mod cpu;
mod cuda;

use crate::conv::{Geometry, geometry};
use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "conv_grad_weight",
    args: &[Arg::read("x", Types::Float), Arg::read("dy", Types::Float), Arg::write("dw", Types::Float)],
    scalars: geometry::SCALARS,
    admits: |t| t.agree(),
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
            let x = noise(g.n * g.ci * g.input_len(), 1);
            let dy = noise(g.n * g.co * g.output_len(), 2);
            let mut want = vec![0.0; g.co * g.ci_group() * g.taps()];
            each(&g, |xi, wi, yi| want[wi] += x[xi] * dy[yi]);
            for dtype in [DType::F32, DType::F64] {
                let mut bench = Bench::new(&KERNEL, scalars(&g));
                bench.float("x", dtype, &x);
                bench.float("dy", dtype, &dy);
                bench.float("dw", dtype, &vec![f64::NAN; want.len()]);
                let tolerance = if dtype == DType::F32 { 2e-5 } else { 1e-12 };
                assert_close(&bench.run()["dw"], &want, tolerance);
            }
        }
    }
}
