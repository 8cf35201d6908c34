//! `y[idx[k]] = p[k]`: writes values at ascending positions of a flat tensor and leaves the rest alone.

mod cpu;
mod cuda;

use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "scatter",
    args: &[
        Arg::read("p", Types::Float),
        Arg::read("idx", Types::Only(DType::U32)),
        Arg::update("y", Types::Float).accessed(|call| call.len("idx") as u64),
    ],
    scalars: &[],
    admits: |t| t.agree(),
    flops: |_| 0,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use crate::harness::{Bench, noise, places};
    use crate::{DType, scatter::KERNEL};

    #[test]
    fn writes_at_the_positions_alone() {
        for (len, density) in [(10, 0.5), (100_000, 0.4), (7, 0.0), (40_000, 1.0)] {
            let (y, idx) = (noise(len, 1), places(len, density));
            let p = noise(idx.len(), 2);
            let mut want = y.clone();
            for (&at, &p) in idx.iter().zip(&p) {
                want[at as usize] = p;
            }
            for dtype in [DType::F32, DType::F64] {
                let mut bench = Bench::new(&KERNEL, vec![]);
                bench.float("p", dtype, &p);
                bench.index("idx", &idx);
                bench.float("y", dtype, &y);
                assert_eq!(bench.run()["y"], want);
            }
        }
    }
}
