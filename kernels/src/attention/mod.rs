//! Scaled dot-product attention (ONNX Attention, and the MatMul-Softmax-MatMul pattern).
//!
//! `y = softmax(scale * q k^T + mask) v` for each batch element and head. `q` is `[batch, heads, queries, dim]`,
//! `k` is `[batch, heads, keys, dim]`, `v` is `[batch, heads, keys, value_dim]`, `y` is `[batch, heads, queries,
//! value_dim]`. The mask is added; its strides count elements in batch, head, query and key, 0 where it is
//! broadcast. `lse` holds the logarithm of the sum of exponentials of each query's scores. A query for which all
//! keys are masked by negative infinity gives zeros and an `lse` of negative infinity. With `half` 1 the operands of all products
//! are rounded to bfloat16, if `lse` is `f32` and heads have no more than some thousand elements. Each of `q`, `k`, `v` and `y`
//! may be stored so, too, where that is [admitted](admits_rounded): the results are those of the same numbers in `f32`, and a `y`
//! that is stored so is rounded to nearest.

mod cpu;
pub(crate) mod cuda;
pub(crate) mod half;
pub(crate) mod operand;

use crate::{Arg, Call, Kernel, ScalarKind, TypedCall, Types};

/// Scalars of the kernels of attention, in the order of the declaration.
pub(crate) const SCALARS: &[(&str, ScalarKind)] = &[
    ("batch", ScalarKind::Int),
    ("heads", ScalarKind::Int),
    ("queries", ScalarKind::Int),
    ("keys", ScalarKind::Int),
    ("dim", ScalarKind::Int),
    ("value_dim", ScalarKind::Int),
    ("mask_strides", ScalarKind::Ints),
    ("scale", ScalarKind::Float),
    ("half", ScalarKind::Int),
];

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "attention",
    args: &[
        Arg::read("q", Types::Rounded),
        Arg::read("k", Types::Rounded),
        Arg::read("v", Types::Rounded),
        Arg::read("mask", Types::Float).or_none(),
        Arg::write("y", Types::Rounded),
        Arg::write("lse", Types::Float),
    ],
    scalars: SCALARS,
    admits,
    flops: |call| {
        let shape = Shape::of(call);
        2 * (shape.images() * shape.queries * shape.keys) as u64 * (shape.dim + shape.value_dim) as u64
    },
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Whether attention and its gradient take operands in bfloat16, and store their results so, if `half` is 1, of heads with so many
/// elements.
pub fn admits_rounded(dim: usize, value_dim: usize) -> bool {
    // What the least blocks need depends on the widths alone.
    let s = Shape { batch: 1, heads: 1, queries: 1, keys: 1, dim, value_dim, mask_strides: [0; 4] };
    half::Blocks::of(&s, 1).is_some() && crate::attention_grad::has_half(&s)
}

/// The types of a call of attention or its gradient.
pub(crate) fn admits(t: &TypedCall<'_>) -> bool {
    t.agree() && (!t.has_half() || t.int("half") != 0 && admits_rounded(t.int("dim"), t.int("value_dim")))
}

/// Shape of the operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) mask_strides: [usize; 4],
}

impl Shape {
    /// The shape in the scalars of a launch.
    pub(crate) fn of(call: &Call<'_>) -> Shape {
        let strides = call.ints("mask_strides");
        Shape {
            batch: call.int("batch"),
            heads: call.int("heads"),
            queries: call.int("queries"),
            keys: call.int("keys"),
            dim: call.int("dim"),
            value_dim: call.int("value_dim"),
            mask_strides: std::array::from_fn(|d| strides.get(d).map_or(0, |&s| s as usize)),
        }
    }

    /// Pairs of batch element and head.
    pub(crate) fn images(&self) -> usize {
        self.batch * self.heads
    }

    /// Start of the mask of one batch element and head.
    pub(crate) fn mask_start(&self, image: usize) -> usize {
        image / self.heads * self.mask_strides[0] + image % self.heads * self.mask_strides[1]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::KERNEL;
    use crate::harness::{Bench, assert_close, assert_same_bits, halves, noise, rounded};
    use crate::{DType, Scalar};
    use std::collections::HashMap;

    /// One problem with its solution in double precision.
    pub(crate) struct Case {
        pub(crate) sizes: [usize; 6],
        pub(crate) mask_strides: [i64; 4],
        pub(crate) scale: f64,
        pub(crate) half: bool,
        pub(crate) q: Vec<f64>,
        pub(crate) k: Vec<f64>,
        pub(crate) v: Vec<f64>,
        pub(crate) mask: Option<Vec<f64>>,
    }

    /// What attention computes, and the probabilities.
    pub(crate) struct Solution {
        pub(crate) y: Vec<f64>,
        pub(crate) lse: Vec<f64>,
        pub(crate) p: Vec<f64>,
    }

    impl Case {
        pub(crate) fn new(sizes: [usize; 6], mask_strides: Option<[i64; 4]>) -> Case {
            let [batch, heads, queries, keys, dim, value_dim] = sizes;
            let strides = mask_strides.unwrap_or([0; 4]);
            let ends = [batch, heads, queries, keys];
            let mask_len: usize =
                1 + ends.iter().zip(strides).map(|(&e, s)| e.saturating_sub(1) * s as usize).sum::<usize>();
            let mut mask = noise(mask_len, 4);
            for (i, m) in mask.iter_mut().enumerate() {
                if i % 3 == 1 {
                    *m = f64::NEG_INFINITY;
                }
            }
            if strides[2] == keys as i64 && queries > 1 {
                // All keys of one query.
                let row = strides[2] as usize;
                mask[row..2 * row].fill(f64::NEG_INFINITY);
            }
            Case {
                sizes,
                mask_strides: strides,
                scale: 0.5,
                half: false,
                q: halves(batch * heads * queries * dim, 1).iter().map(|v| v * 2.0).collect(),
                k: halves(batch * heads * keys * dim, 2),
                v: halves(batch * heads * keys * value_dim, 3),
                mask: mask_strides.map(|_| mask),
            }
        }

        pub(crate) fn scalars(&self) -> Vec<Scalar> {
            let mut scalars: Vec<Scalar> = self.sizes.iter().map(|&v| Scalar::Int(v as i64)).collect();
            scalars.push(Scalar::Ints(self.mask_strides.to_vec()));
            scalars.push(Scalar::Float(self.scale));
            scalars.push(Scalar::Int(self.half.into()));
            scalars
        }

        pub(crate) fn solve(&self) -> Solution {
            let [batch, heads, queries, keys, dim, value_dim] = self.sizes;
            let mut y = vec![0.0; batch * heads * queries * value_dim];
            let mut lse = vec![0.0; batch * heads * queries];
            let mut p = vec![0.0; batch * heads * queries * keys];
            for row in 0..batch * heads * queries {
                let (image, query) = (row / queries, row % queries);
                let p = &mut p[row * keys..][..keys];
                for (key, p) in p.iter_mut().enumerate() {
                    let k = &self.k[(image * keys + key) * dim..][..dim];
                    let dot: f64 = k.iter().zip(&self.q[row * dim..]).map(|(a, b)| a * b).sum();
                    let at = [image / heads, image % heads, query, key];
                    let at: usize = at.iter().zip(self.mask_strides).map(|(&i, s)| i * s as usize).sum();
                    *p = self.scale * dot + self.mask.as_ref().map_or(0.0, |m| m[at]);
                }
                let top = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let shift = if top == f64::NEG_INFINITY { 0.0 } else { top };
                let sum: f64 = p.iter().map(|s| (s - shift).exp()).sum();
                lse[row] = shift + sum.ln();
                for (key, p) in p.iter_mut().enumerate() {
                    *p = if sum == 0.0 { 0.0 } else { (*p - lse[row]).exp() };
                    for j in 0..value_dim {
                        y[row * value_dim + j] += *p * self.v[(image * keys + key) * value_dim + j];
                    }
                }
            }
            Solution { y, lse, p }
        }
    }

    /// Problems that reach every path.
    pub(crate) fn cases() -> Vec<Case> {
        vec![
            Case::new([1, 2, 7, 9, 4, 5], None),
            Case::new([2, 2, 70, 33, 40, 40], None),
            Case::new([1, 1, 130, 700, 5, 3], None),
            Case::new([1, 3, 1, 77, 16, 16], None),
            Case::new([1, 1, 547, 35, 6, 7], None),
            Case::new([1, 1, 40, 70, 600, 600], None),
            Case::new([1, 1, 20, 290, 1, 1500], None),
            Case::new([1, 1, 65, 600, 4, 130], None),
            Case::new([1, 2, 40, 50, 64, 64], None),
            Case::new([1, 1, 33, 70, 75, 75], None),
            Case::new([1, 1, 40, 35, 120, 120], None),
            Case::new([1, 1, 66, 36, 160, 160], Some([0, 0, 36, 1])),
            Case::new([2, 3, 9, 11, 4, 5], Some([3 * 99, 99, 11, 1])),
            Case::new([2, 3, 9, 11, 4, 5], Some([0, 0, 11, 1])),
            Case::new([2, 3, 9, 11, 4, 5], Some([11, 0, 0, 1])),
            Case::new([2, 3, 9, 11, 4, 5], Some([0, 1, 0, 0])),
            Case::new([1, 1, 66, 520, 4, 4], Some([0, 0, 520, 1])),
            Case::new([1, 1, 5, 0, 4, 4], None),
            Case::new([1, 1, 0, 5, 4, 4], None),
            Case::new([0, 2, 3, 5, 4, 4], None),
            Case::new([1, 1, 3, 5, 0, 2], None),
            Case::new([1, 1, 3, 5, 2, 0], None),
        ]
    }

    /// Results where `q`, `k`, `v` and `y` have these types, and all else the first.
    fn run(case: &Case, dtype: DType, [q, k, v, y]: [DType; 4]) -> HashMap<&'static str, Vec<f64>> {
        let [batch, heads, queries, _, _, value_dim] = case.sizes;
        let rows = batch * heads * queries;
        let mut bench = Bench::new(&KERNEL, case.scalars());
        bench.float("q", q, &case.q);
        bench.float("k", k, &case.k);
        bench.float("v", v, &case.v);
        if let Some(mask) = &case.mask {
            bench.float("mask", dtype, mask);
        }
        bench.float("y", y, &vec![f64::NAN; rows * value_dim]);
        bench.float("lse", dtype, &vec![f64::NAN; rows]);
        bench.run()
    }

    #[test]
    fn matches_a_naive_loop() {
        for mut case in cases() {
            let want = case.solve();
            // Operands hold what half precision holds; of its products only the probabilities are rounded.
            for (dtype, half, tolerance) in [
                (DType::F32, false, 3e-6),
                (DType::F64, false, 1e-13),
                (DType::F64, true, 1e-13),
                (DType::F32, true, 4e-3),
            ] {
                case.half = half;
                let got = run(&case, dtype, [dtype; 4]);
                assert_close(&got["y"], &want.y, tolerance);
                // The scores are of operands that nothing rounds.
                let tolerance = if half { tolerance.min(3e-6) } else { tolerance };
                for (g, w) in got["lse"].iter().zip(&want.lse) {
                    assert!(g == w || (g - w).abs() < tolerance * (1.0 + w.abs()), "lse {g}, not {w}");
                }
            }
        }
    }

    #[test]
    fn rounded_operands_give_the_same_bits() {
        let (single, half) = (DType::F32, DType::Bf16);
        for mut case in cases() {
            assert!(super::admits_rounded(case.sizes[4], case.sizes[5]));
            case.half = true;
            let want = run(&case, single, [single; 4]);
            for types in [[half; 4], [half, single, half, single]] {
                let got = run(&case, single, types);
                assert_same_bits(&got["lse"], want["lse"].iter().copied());
                match types[3] {
                    DType::Bf16 => assert_same_bits(&got["y"], rounded(half, &want["y"]).into_iter()),
                    _ => assert_same_bits(&got["y"], want["y"].iter().copied()),
                }
            }
        }
        assert!(!super::admits_rounded(1 << 20, 40));
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let mut case = Case::new([1, 1, 20, 40, 8, 8], None);
        case.scale = 400.0;
        let want = case.solve();
        let mut bench = Bench::new(&KERNEL, case.scalars());
        for (name, data) in [("q", &case.q), ("k", &case.k), ("v", &case.v), ("y", &want.y), ("lse", &want.lse)] {
            bench.float(name, DType::F64, data);
        }
        assert_close(&bench.run()["y"], &want.y, 1e-10);
    }
}
