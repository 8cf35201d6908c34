//! Gradient of attention with respect to its three operands.
//!
//! With `p = exp(scale * q k^T + mask - lse)` and `d = rowsum(dy * y)`: `dv = p^T dy`, `ds = p * (dy v^T - d)`,
//! `dq = scale * ds k`, `dk = scale * ds^T q`. Shapes are those of attention. The probabilities are computed again from
//! `lse`; queries whose keys are all masked have none.

mod cpu;
mod cuda;
mod half;

use crate::attention::{SCALARS, Shape, admits};
use crate::{Arg, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "attention_grad",
    args: &[
        Arg::read("q", Types::Rounded),
        Arg::read("k", Types::Rounded),
        Arg::read("v", Types::Rounded),
        Arg::read("mask", Types::Float).or_none(),
        Arg::read("y", Types::Rounded),
        Arg::read("lse", Types::Float),
        Arg::read("dy", Types::Rounded),
        Arg::write("dq", Types::Rounded),
        Arg::write("dk", Types::Rounded),
        Arg::write("dv", Types::Rounded),
    ],
    scalars: SCALARS,
    admits,
    flops: |call| {
        let s = Shape::of(call);
        2 * (s.images() * s.queries * s.keys) as u64 * (3 * s.dim + 2 * s.value_dim) as u64
    },
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Whether there is a form of half precision for the widths of the shape on a CPU.
pub(crate) fn has_half(s: &Shape) -> bool {
    half::Blocks::of(s).is_some()
}

#[cfg(test)]
mod tests {
    use super::{KERNEL, half};
    use crate::attention::tests::{Case, cases};
    use crate::harness::{Bench, assert_close, assert_same_bits, halves, noise, rounded};
    use crate::{DType, Kernel};
    use std::collections::HashMap;

    /// Arguments that may be rounded, and results.
    const ROUNDED: [&str; 8] = ["q", "k", "v", "y", "dy", "dq", "dk", "dv"];

    fn run(case: &Case, dy: &[f64], dtype: DType) -> HashMap<&'static str, Vec<f64>> {
        run_as(&KERNEL, case, [&case.solve().y, dy], dtype, [dtype; 8])
    }

    /// Results where the [`ROUNDED`] arguments have these types, and all else the first.
    fn run_as(
        kernel: &'static Kernel,
        case: &Case,
        [y, dy]: [&[f64]; 2],
        dtype: DType,
        types: [DType; 8],
    ) -> HashMap<&'static str, Vec<f64>> {
        let [dq, dk, dv] = [&case.q, &case.k, &case.v].map(|of| vec![f64::NAN; of.len()]);
        let mut bench = Bench::new(kernel, case.scalars());
        let values = [&case.q, &case.k, &case.v, y, dy, &dq, &dk, &dv];
        for ((name, dtype), values) in ROUNDED.into_iter().zip(types).zip(values) {
            bench.float(name, dtype, values);
        }
        if let Some(mask) = &case.mask {
            bench.float("mask", dtype, mask);
        }
        bench.float("lse", dtype, &case.solve().lse);
        bench.run()
    }

    #[test]
    fn rounded_operands_give_the_same_bits() {
        let (single, half) = (DType::F32, DType::Bf16);
        for mut case in cases() {
            case.half = true;
            let y = rounded(half, &case.solve().y);
            let dy = halves(y.len(), 5);
            let want = run_as(&KERNEL, &case, [&y, &dy], single, [single; 8]);
            for types in [[half; 8], [single, half, half, single, half, half, single, half]] {
                let got = run_as(&KERNEL, &case, [&y, &dy], single, types);
                for (name, dtype) in ROUNDED.into_iter().zip(types).skip(5) {
                    match dtype {
                        DType::Bf16 => assert_same_bits(&got[name], rounded(half, &want[name]).into_iter()),
                        _ => assert_same_bits(&got[name], want[name].iter().copied()),
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_kept_in_scratch_memory_does_not_change_sums() {
        for mut case in [Case::new([1, 2, 70, 150, 40, 24], None), Case::new([1, 1, 70, 90, 9, 5], Some([0, 0, 90, 1]))]
        {
            case.half = true;
            let y = case.solve().y;
            let dy = halves(y.len(), 5);
            let want = run(&case, &dy, DType::F32);
            let forms = half::tests::FORMS.each_ref();
            let [first, others @ ..] = forms.map(|form| run_as(form, &case, [&y, &dy], DType::F32, [DType::F32; 8]));
            for name in ["dq", "dk", "dv"] {
                assert_close(&first[name], &want[name], 8e-3);
                for got in &others {
                    assert_same_bits(&got[name], first[name].iter().copied());
                }
            }
        }
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
