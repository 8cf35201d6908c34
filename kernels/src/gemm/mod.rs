//! Matrix product `c = alpha * a @ b + beta * c + bias` for each index of a batch (ONNX MatMul, Gemm, Einsum).
//!
//! `a` is `m` x `k`, `b` is `k` x `n`, `c` is `m` x `n`; each has a row and a column stride and one stride for each
//! batch dimension, 0 where it is broadcast. All strides count elements and are not negative. With `beta` zero `c`
//! is not read. `bias` has a number for each column, 0 where it is absent. An operand in `bf16` makes the product one of
//! half precision: the other operand is rounded to it, and the sums are in single precision; `c` may then be in `bf16`, too,
//! and is rounded after each 65536 terms. An operand in `f16` is widened; a GPU rounds the other to tf32, which holds all of `f16`.

pub(crate) mod bias;
pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod half;

use crate::{Arg, Call, DType, Kernel, ScalarKind, TypedCall, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "gemm",
    args: &[
        Arg::read("a", Types::Weight),
        Arg::read("b", Types::Weight),
        Arg::read("bias", Types::Float).or_none(),
        Arg::update("c", Types::Rounded).fresh(written),
    ],
    scalars: &[
        ("m", ScalarKind::Int),
        ("n", ScalarKind::Int),
        ("k", ScalarKind::Int),
        ("batch", ScalarKind::Ints),
        ("a_batch", ScalarKind::Ints),
        ("b_batch", ScalarKind::Ints),
        ("c_batch", ScalarKind::Ints),
        ("a_strides", ScalarKind::Ints),
        ("b_strides", ScalarKind::Ints),
        ("c_strides", ScalarKind::Ints),
        ("alpha", ScalarKind::Float),
        ("beta", ScalarKind::Float),
    ],
    admits,
    flops: |call: &Call<'_>| {
        let batch: i64 = call.ints("batch").iter().product();
        2 * batch as u64 * call.int("m") as u64 * call.int("n") as u64 * call.int("k") as u64
    },
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Only products of half precision round their result.
fn admits(t: &TypedCall<'_>) -> bool {
    let [a, b, c] = ["a", "b", "c"].map(|name| t.dtype(name) == DType::Bf16);
    t.agree() && (!c || a || b)
}

/// With `beta` zero, all that the product has.
fn written(call: &Call<'_>) -> Option<u64> {
    let one = (call.int("m") as u64).saturating_mul(call.int("n") as u64);
    (call.float("beta") == 0.0).then(|| one.saturating_mul(call.reached("batch", "c_batch")))
}

#[cfg(test)]
mod tests {
    use super::{KERNEL, half};
    use crate::cuda::MatmulPrecision;
    use crate::harness::{Bench, assert_close, noise, rounded};
    use crate::{DType, Scalar};

    struct Case {
        dims: [usize; 3],
        batch: Vec<i64>,
        a_batch: Vec<i64>,
        b_batch: Vec<i64>,
        a_strides: [i64; 2],
        b_strides: [i64; 2],
        c_strides: [i64; 2],
        alpha: f64,
        beta: f64,
    }

    fn check(case: &Case) {
        let [m, n, k] = case.dims;
        let span = |batch_strides: &[i64], rows: usize, cols: usize, s: [i64; 2]| -> usize {
            let mut last = (rows.max(1) - 1) as i64 * s[0] + (cols.max(1) - 1) as i64 * s[1];
            for (d, s) in case.batch.iter().zip(batch_strides) {
                last += (d - 1).max(0) * s;
            }
            last as usize + 1
        };
        let c_one = m.max(1) as i64 * case.c_strides[0].max(1) * case.c_strides[1].max(1) * n.max(1) as i64;
        let mut c_batch = vec![c_one; case.batch.len()];
        for i in (0..case.batch.len().saturating_sub(1)).rev() {
            c_batch[i] = c_batch[i + 1] * case.batch[i + 1];
        }
        let a = noise(span(&case.a_batch, m, k, case.a_strides), 1);
        let b = noise(span(&case.b_batch, k, n, case.b_strides), 2);
        let c = noise(span(&c_batch, m, n, case.c_strides), 3);
        let bias = noise(n, 4);
        let wanted = |a: &[f64], b: &[f64], bias: Option<&[f64]>| {
            let mut want = c.clone();
            let total: i64 = case.batch.iter().product();
            for index in 0..total {
                let (mut rest, mut ao, mut bo, mut co) = (index, 0, 0, 0);
                for d in (0..case.batch.len()).rev() {
                    let i = rest % case.batch[d];
                    rest /= case.batch[d];
                    ao += i * case.a_batch[d];
                    bo += i * case.b_batch[d];
                    co += i * c_batch[d];
                }
                let at = |o: i64, s: [i64; 2], i: usize, j: usize| (o + i as i64 * s[0] + j as i64 * s[1]) as usize;
                for i in 0..m {
                    for j in 0..n {
                        let sum: f64 =
                            (0..k).map(|l| a[at(ao, case.a_strides, i, l)] * b[at(bo, case.b_strides, l, j)]).sum();
                        let old = &mut want[at(co, case.c_strides, i, j)];
                        let before = if case.beta == 0.0 { 0.0 } else { case.beta * *old };
                        *old = case.alpha * sum + before + bias.map_or(0.0, |bias| bias[j]);
                    }
                }
            }
            want
        };
        let scalars = vec![
            Scalar::Int(m as i64),
            Scalar::Int(n as i64),
            Scalar::Int(k as i64),
            Scalar::Ints(case.batch.clone()),
            Scalar::Ints(case.a_batch.clone()),
            Scalar::Ints(case.b_batch.clone()),
            Scalar::Ints(c_batch.clone()),
            Scalar::Ints(case.a_strides.to_vec()),
            Scalar::Ints(case.b_strides.to_vec()),
            Scalar::Ints(case.c_strides.to_vec()),
            Scalar::Float(case.alpha),
            Scalar::Float(case.beta),
        ];
        let bench = |alpha: f64, (of_a, a): (DType, &[f64]), (of_b, b): (DType, &[f64])| {
            let mut scalars = scalars.clone();
            scalars[10] = Scalar::Float(alpha);
            let mut bench = Bench::new(&KERNEL, scalars);
            bench.float("a", of_a, a);
            bench.float("b", of_b, b);
            bench.float("c", of_a.computed(), &c);
            bench
        };
        let check = |alpha, a: (DType, &[f64]), b: (DType, &[f64]), want: &[f64], tolerance: f64| {
            assert_close(&bench(alpha, a, b).run()["c"], want, tolerance);
        };
        let (alpha, single) = (case.alpha, 2e-5 * (k as f64).sqrt().max(1.0));
        let exact = wanted(&a, &b, None);
        check(alpha, (DType::F32, &a), (DType::F32, &b), &exact, single);
        check(alpha, (DType::F64, &a), (DType::F64, &b), &exact, 1e-12);
        let exact = wanted(&a, &b, Some(&bias));
        for (dtype, tolerance) in [(DType::F32, single), (DType::F64, 1e-12)] {
            let mut bench = bench(alpha, (dtype, &a), (dtype, &b));
            bench.float("bias", dtype, &bias);
            assert_close(&bench.run()["c"], &exact, tolerance);
        }
        // In bfloat16 the product is that of rounded operands.
        let (half_a, half_b) = (rounded(DType::Bf16, &a), rounded(DType::Bf16, &b));
        let want = wanted(&half_a, &half_b, None);
        let rounded_too = [(DType::Bf16, DType::F32), (DType::F32, DType::Bf16), (DType::Bf16, DType::Bf16)];
        for (of_a, of_b) in rounded_too {
            check(alpha, (of_a, &a), (of_b, &b), &want, single);
            let mut bench = bench(alpha, (of_a, &a), (of_b, &b));
            if k <= half::TERMS {
                bench.assert_rounded(&["c"]);
            }
            bench.float("bias", DType::F32, &bias);
            assert_close(&bench.run()["c"], &wanted(&half_a, &half_b, Some(&bias)), single);
        }
        // In fp16 the other operand has the range of single precision. It is given rounded, because a GPU rounds it.
        let (half_a, half_b) = (rounded(DType::F16, &a), rounded(DType::F16, &b));
        let want = wanted(&half_a, &half_b, None);
        for scale in [1.0, 2f64.powi(40), 2f64.powi(-40)] {
            let scaled = |v: &[f64]| v.iter().map(|v| v * scale).collect::<Vec<f64>>();
            check(alpha / scale, (DType::F16, &a), (DType::F32, &scaled(&half_b)), &want, single);
            check(alpha / scale, (DType::F32, &scaled(&half_a)), (DType::F16, &b), &want, single);
        }
        check(alpha, (DType::F16, &a), (DType::F16, &b), &want, single);
    }

    fn plain(m: usize, n: usize, k: usize) -> Case {
        Case {
            dims: [m, n, k],
            batch: vec![],
            a_batch: vec![],
            b_batch: vec![],
            a_strides: [k as i64, 1],
            b_strides: [n as i64, 1],
            c_strides: [n as i64, 1],
            alpha: 1.0,
            beta: 0.0,
        }
    }

    /// More terms than half precision rounds at once, and more rows than it keeps.
    #[test]
    fn long_sums_and_tall_results() {
        check(&Case { alpha: -0.5, beta: 2.0, ..plain(3, 5, 140_003) });
        check(&Case { beta: 1.0, ..plain(2, 40, 1030) });
        check(&plain(531, 37, 9));
    }

    #[test]
    fn odd_sizes_match_a_naive_loop() {
        for m in [1, 2, 7, 65] {
            for n in [1, 3, 16, 67] {
                for k in [0, 1, 2, 5, 33] {
                    check(&plain(m, n, k));
                }
            }
        }
        check(&plain(0, 3, 4));
        check(&plain(3, 0, 4));
        check(&plain(300, 200, 100));
        check(&plain(1, 700, 3000));
        check(&plain(700, 1, 3000));
        check(&plain(130, 260, 1100));
    }

    #[test]
    fn strides_and_scalars() {
        let t = |m: usize, n: usize, k: usize| Case {
            a_strides: [1, m as i64],
            b_strides: [1, k as i64],
            c_strides: [1, m as i64],
            alpha: -0.5,
            beta: 2.0,
            ..plain(m, n, k)
        };
        check(&t(5, 9, 13));
        check(&t(150, 170, 190));
        check(&Case { c_strides: [9, 1], ..t(5, 9, 13) });
        check(&Case { a_strides: [20, 1], b_strides: [40, 1], c_strides: [50, 1], beta: 1.0, ..plain(9, 33, 17) });
        check(&Case { a_strides: [40, 2], b_strides: [70, 2], c_strides: [80, 2], ..plain(9, 33, 17) });
        // Panels with columns beyond the last and without, whose rows have something between them.
        for n in [5, 8, 16, 40] {
            check(&Case { c_strides: [50, 1], ..plain(9, n, 17) });
        }
        // Numbers in half precision that lie in pairs, and that do not.
        check(&Case {
            batch: vec![2],
            a_batch: vec![0],
            b_batch: vec![33 * 18 + 1],
            b_strides: [1, 18],
            ..plain(9, 33, 18)
        });
        // Terms of both operands that a device loads in whole runs, and one that begins elsewhere.
        let runs = Case { b_strides: [1, 80], ..plain(140, 150, 80) };
        check(&Case { batch: vec![2], a_batch: vec![0], b_batch: vec![150 * 80 + 1], ..runs });
        check(&Case { a_strides: [88, 1], b_strides: [1, 96], ..plain(140, 150, 80) });
        check(&Case { beta: 1.0, ..plain(4, 5, 0) });
        check(&Case { a_strides: [0, 1], b_strides: [0, 1], ..plain(6, 7, 8) });
    }

    #[test]
    fn batches_and_broadcasts() {
        check(&Case { batch: vec![3], a_batch: vec![35], b_batch: vec![0], ..plain(7, 6, 5) });
        check(&Case { batch: vec![2, 3], a_batch: vec![105, 35], b_batch: vec![30, 0], ..plain(7, 6, 5) });
        check(&Case { batch: vec![0], a_batch: vec![35], b_batch: vec![0], ..plain(7, 6, 5) });
        check(&Case { batch: vec![40], a_batch: vec![0], b_batch: vec![64 * 48], ..plain(32, 48, 64) });
        check(&Case { batch: vec![2], a_batch: vec![140 * 90], b_batch: vec![90 * 150], ..plain(140, 150, 90) });
    }
    /// As many products of a row and a column with `k` terms.
    fn products(count: usize, k: usize) -> Vec<Scalar> {
        let (ints, k) = (|list: &[i64]| Scalar::Ints(list.to_vec()), k as i64);
        let sizes = [1, 1, k].map(Scalar::Int).to_vec();
        let batches = [ints(&[count as i64]), ints(&[k]), ints(&[k]), ints(&[1])].to_vec();
        let strides = [ints(&[k, 1]), ints(&[1, 1]), ints(&[1, 1])].to_vec();
        [sizes, batches, strides, vec![Scalar::Float(1.0), Scalar::Float(0.0)]].concat()
    }

    #[test]
    fn a_device_multiplies_more_than_it_counts_across() {
        let count = 140_000;
        let lens = [3 * count, 3 * count, 0, count];
        let single = [Some(DType::F32), Some(DType::F32), None, Some(DType::F32)];
        let work =
            KERNEL.work(&lens, &products(count, 3), &single, MatmulPrecision::Highest).expect("a device's launches");
        let across: Vec<u32> = work.steps.iter().map(|step| step.grid[2]).collect();
        assert_eq!(across, [65_535, 65_535, 8930]);
    }
}
