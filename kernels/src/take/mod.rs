//! `y[k] = x[idx[k]]`: the entries of a flat tensor at given positions.

mod cpu;
mod cuda;

use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "take",
    args: &[
        Arg::read("x", Types::Float).accessed(|call| call.len("idx") as u64),
        Arg::read("idx", Types::Only(DType::U32)),
        Arg::write("y", Types::Float),
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
    use crate::{DType, take::KERNEL};

    #[test]
    fn takes_entries() {
        for (len, density) in [(10, 0.5), (100_000, 0.4), (7, 0.0), (40_000, 1.0)] {
            let (x, idx) = (noise(len, 1), places(len, density));
            for dtype in [DType::F32, DType::F64] {
                let mut bench = Bench::new(&KERNEL, vec![]);
                bench.float("x", dtype, &x);
                bench.index("idx", &idx);
                // The result may have room for more entries than are left; the rest is not touched.
                bench.float("y", dtype, &vec![7.0; idx.len() + 3]);
                let want: Vec<f64> = idx.iter().map(|&i| x[i as usize]).chain([7.0; 3]).collect();
                assert_eq!(bench.run()["y"], want);
            }
        }
    }
}
