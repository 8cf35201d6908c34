//! The operators of the update block. They act on training state in place and have no results, except `LowRank`.

use super::unary::second_order;
use super::{Case, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::ir::{Type, ValueId, strides};
use crate::lower::{Lower, dims, int};
use sara_kernels::sparse_adamw_8bit::BLOCK;
use sara_kernels::{DType, Scalar, hyper};

operator! {
    /// `g += hyper[scale] * d`. Operands: `d`, `hyper`, `g`.
    Accumulate {
        /// Which hyper-parameter scales.
        scale: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(d), Some(_), Some(g)] = inputs else { return Err("takes three operands".into()) };
        if d != g { return Err("the operands do not fit".into()) }
        Ok(vec![])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.input(2))];
        l.launch("accumulate", &args, vec![int(self.scale)]);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(Accumulate { scale: hyper::GRADIENT_SCALE }, &["f32[5]", "f32[16]", "f32[5]"])]
    }
}

operator! {
    /// Global norm of all gradients, and the factor that clips it; both into `hyper`. Operands: `hyper`, then the gradients.
    ClipNorm {}

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        if inputs.len() < 2 { return Err("takes at least two operands".into()) }
        Ok(vec![])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let mut gradients = Vec::new();
        while let Some(g) = l.try_input(gradients.len() + 1) {
            gradients.push(g);
        }
        let sums = l.temp(DType::F64, gradients.len());
        l.launch("fill", &[Some(sums)], vec![Scalar::Float(0.0)]);
        for (slot, g) in gradients.into_iter().enumerate() {
            l.launch("sum_squares", &[Some(g), Some(sums)], vec![int(slot)]);
        }
        let hyper = l.input(0);
        l.launch("clip_norm", &[Some(sums), Some(hyper)], vec![]);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(ClipNorm {}, &["f32[16]", "f32[3]", "f32[4]"])]
    }
}

operator! {
    /// One step of AdamW (Loshchilov and Hutter 2019) on the trained entries, which are then written into the weight; clears the
    /// gradient. Operands: `w` (absent if it stays in its file), `idx`, `p`, `m`, `v`, `g`, `hyper`; of moments of a byte each besides
    /// the largest magnitudes of their blocks, `m_absmax` and `v_absmax`.
    SparseAdamW {}

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [_, Some(idx), Some(p), Some(m), Some(v), Some(g), Some(_), absmax @ ..] = inputs else {
            return Err("takes seven operands or nine".into());
        };
        let fit = match absmax {
            [] => m.dtype == DType::F32,
            [Some(a), Some(b)] => m.dtype == DType::U8 && a == b && a.len() == idx.len().div_ceil(BLOCK),
            _ => return Err("takes seven operands or nine".into()),
        };
        if !fit || m != v || [p, m, g].iter().any(|t| t.shape != idx.shape) { return Err("the operands do not fit".into()) }
        Ok(vec![])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args: Vec<_> = (0..7).map(|i| l.try_input(i)).collect();
        match [l.try_input(7), l.try_input(8)] {
            [None, None] => l.launch("sparse_adamw", &args, vec![]),
            absmax => l.launch("sparse_adamw_8bit", &[&args[..], &absmax].concat(), vec![]),
        }
    }

    fn cases() -> Vec<Case> {
        let coded = ["f32[3,4]", "u32[5]", "f32[5]", "u8[5]", "u8[5]", "f32[5]", "f32[16]", "f32[1]", "f32[1]"];
        vec![
            Case::new(SparseAdamW {}, &["f32[3,4]", "u32[5]", "f32[5]", "f32[5]", "f32[5]", "f32[5]", "f32[16]"]).positive(),
            Case::new(SparseAdamW {}, &coded).positive(),
        ]
    }
}

operator! {
    /// Subgradient of the nuclear norm of the masked weight `P_M` at its trained entries: `(U V^T)[idx]` (SaRA, arXiv
    /// 2409.06633, equations 4 and 5). Operands: `idx`, `p`.
    ///
    /// `U V^T` is the polar factor of `P_M`. The iteration `X <- a X + b X A + c X A^2`, `A = X^T X`, drives every singular value
    /// to 1; the coefficients of the first steps are the minimax polynomials of Amsel et al. (2025, arXiv 2505.16932), which are
    /// the fastest for singular values down to a thousandth of the norm.
    LowRank {
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(idx), Some(p)] = inputs else { return Err("takes two operands".into()) };
        if idx.shape != p.shape { return Err("the operands do not fit".into()) }
        Ok(vec![(*p).clone()])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let (rows, cols) = (self.rows, self.cols);
        let small = rows.min(cols);
        let tall = rows >= cols;
        let (idx, p, y) = (l.input(0), l.input(1), l.output(0));
        let mut x = l.temp(DType::F32, rows * cols);
        let mut next = l.temp(DType::F32, rows * cols);
        let gram = l.temp(DType::F32, small * small);
        let poly = l.temp(DType::F32, small * small);
        l.launch("fill", &[Some(x)], vec![Scalar::Float(0.0)]);
        l.launch("scatter", &[Some(p), Some(idx), Some(x)], vec![]);
        l.launch("normalize", &[Some(x)], vec![]);
        let wide = [cols as i64, 1];
        let turned = [1, cols as i64];
        let square = [small as i64, 1];
        for [a, b, c] in POLAR {
            let (left, right) = if tall { (turned, wide) } else { (wide, turned) };
            let long = rows.max(cols);
            gemm(l, (x, left), (x, right), (gram, square), [small, small, long], 1.0, 0.0);
            let flat = [small * small];
            l.copy(gram, (0, &strides(&flat)), poly, (0, &strides(&flat)), &flat);
            gemm(l, (gram, square), (gram, square), (poly, square), [small, small, small], *c, *b);
            let flat = [rows * cols];
            l.copy(x, (0, &strides(&flat)), next, (0, &strides(&flat)), &flat);
            let (left, right) = if tall { ((x, wide), (poly, square)) } else { ((poly, square), (x, wide)) };
            gemm(l, left, right, (next, wide), [rows, cols, small], 1.0, *a);
            std::mem::swap(&mut x, &mut next);
        }
        l.launch("take", &[Some(x), Some(idx), Some(y)], vec![]);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(LowRank { rows: 3, cols: 4 }, &["u32[6]", "f32[6]"])]
    }
}

/// Coefficients of the polar iteration, step by step.
const POLAR: &[[f64; 3]] = &[
    [8.287_212_018_145_63, -23.595_886_519_098_837, 17.300_387_312_530_933],
    [4.107_059_111_542_203, -2.947_849_916_737_910_6, 0.544_843_108_292_660_1],
    [3.948_690_853_482_294_6, -2.908_902_115_962_949, 0.551_819_139_437_013_7],
    [3.318_419_657_370_601_5, -2.488_488_024_314_874, 0.510_048_940_123_72],
    [2.300_652_019_954_817, -1.668_903_984_574_749_3, 0.418_807_311_952_567_3],
    [1.891_301_407_787_398, -1.267_995_827_194_586_8, 0.376_804_089_485_248_35],
    [1.875, -1.25, 0.375],
    [1.875, -1.25, 0.375],
    [1.875, -1.25, 0.375],
    [1.875, -1.25, 0.375],
];

type Matrix = (sara_runtime::plan::BufferId, [i64; 2]);

fn gemm(l: &mut Lower<'_>, a: Matrix, b: Matrix, c: Matrix, [m, n, k]: [usize; 3], alpha: f64, beta: f64) {
    let none = || dims(&[]);
    let scalars = vec![
        int(m),
        int(n),
        int(k),
        none(),
        none(),
        none(),
        none(),
        Scalar::Ints(a.1.to_vec()),
        Scalar::Ints(b.1.to_vec()),
        Scalar::Ints(c.1.to_vec()),
        Scalar::Float(alpha),
        Scalar::Float(beta),
    ];
    l.launch("gemm", &[Some(a.0), Some(b.0), None, Some(c.0)], scalars);
}
