//! Gradient of attention with respect to its three operands.
//!
//! With `p = exp(scale * q k^T + mask - lse)` and `d = rowsum(dy * y)`: `dv = p^T dy`, `ds = p * (dy v^T - d)`,
//! `dq = scale * ds k`, `dk = scale * ds^T q`. Shapes are those of attention. The probabilities are computed again from
//! `lse`; queries whose keys are all masked have none.

mod cpu;
mod cuda;
mod half;

use crate::attention::{SCALARS, Shape};
use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "attention_grad",
    args: &[
        Arg::read("q", Types::Float),
        Arg::read("k", Types::Float),
        Arg::read("v", Types::Float),
        Arg::read("mask", Types::Float).or_none(),
        Arg::read("y", Types::Float),
        Arg::read("lse", Types::Float),
        Arg::read("dy", Types::Float),
        Arg::write("dq", Types::Float),
        Arg::write("dk", Types::Float),
        Arg::write("dv", Types::Float),
    ],
    scalars: SCALARS,
    flops: |call| {
        let s = Shape::of(call);
        2 * (s.images() * s.queries * s.keys) as u64 * (3 * s.dim + 2 * s.value_dim) as u64
    },
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::attention::tests::{Case, cases};
    use crate::harness::{Bench, assert_close, halves, noise};
    use std::collections::HashMap;

    fn run(case: &Case, dy: &[f64], dtype: DType) -> HashMap<&'static str, Vec<f64>> {
        let solution = case.solve();
        let mut bench = Bench::new(&KERNEL, case.scalars());
        bench.float("q", dtype, &case.q);
        bench.float("k", dtype, &case.k);
        bench.float("v", dtype, &case.v);
        if let Some(mask) = &case.mask {
            bench.float("mask", dtype, mask);
        }
        bench.float("y", dtype, &solution.y);
        bench.float("lse", dtype, &solution.lse);
        bench.float("dy", dtype, dy);
        bench.float("dq", dtype, &vec![f64::NAN; case.q.len()]);
        bench.float("dk", dtype, &vec![f64::NAN; case.k.len()]);
        bench.float("dv", dtype, &vec![f64::NAN; case.v.len()]);
        bench.run()
    }

    #[test]
    fn matches_a_naive_loop() {
        for mut case in cases() {
            let [batch, heads, queries, keys, dim, value_dim] = case.sizes;
            let solution = case.solve();
            let dy = halves(solution.y.len(), 5);
            let (mut dq, mut dk, mut dv) = (vec![0.0; case.q.len()], vec![0.0; case.k.len()], vec![0.0; case.v.len()]);
            for row in 0..batch * heads * queries {
                let dy = &dy[row * value_dim..][..value_dim];
                let d: f64 = dy.iter().zip(&solution.y[row * value_dim..]).map(|(a, b)| a * b).sum();
                for key in 0..keys {
                    let p = solution.p[row * keys + key];
                    let key = row / queries * keys + key;
                    let mut dp = 0.0;
                    for j in 0..value_dim {
                        dv[key * value_dim + j] += p * dy[j];
                        dp += dy[j] * case.v[key * value_dim + j];
                    }
                    let ds = case.scale * p * (dp - d);
                    for j in 0..dim {
                        dq[row * dim + j] += ds * case.k[key * dim + j];
                        dk[key * dim + j] += ds * case.q[row * dim + j];
                    }
                }
            }
            for (dtype, half, tolerance) in
                [(DType::F32, false, 2e-5), (DType::F64, false, 1e-12), (DType::F32, true, 8e-3)]
            {
                case.half = half;
                let got = run(&case, &dy, dtype);
                assert_close(&got["dq"], &dq, tolerance);
                assert_close(&got["dk"], &dk, tolerance);
                assert_close(&got["dv"], &dv, tolerance);
            }
        }
    }

    #[test]
    fn matches_central_differences() {
        let mut case = Case::new([1, 2, 6, 7, 4, 3], Some([0, 42, 7, 1]));
        let dy = noise(case.solve().y.len(), 5);
        let got = run(&case, &dy, DType::F64);
        let step = 1e-5;
        for name in ["dq", "dk", "dv"] {
            for (at, &value) in got[name].iter().enumerate() {
                let mut nudged = |by: f64| {
                    let operand = match name {
                        "dq" => &mut case.q,
                        "dk" => &mut case.k,
                        _ => &mut case.v,
                    };
                    let old = operand[at];
                    operand[at] += by;
                    let loss: f64 = case.solve().y.iter().zip(&dy).map(|(a, b)| a * b).sum();
                    match name {
                        "dq" => case.q[at] = old,
                        "dk" => case.k[at] = old,
                        _ => case.v[at] = old,
                    }
                    loss
                };
                let want = (nudged(step) - nudged(-step)) / (2.0 * step);
                assert!((value - want).abs() < 1e-8, "{name}[{at}] is {value}, not {want}");
            }
        }
    }
}
