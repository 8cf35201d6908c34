//! The operators of sparse training: a weight whose selected entries are parameters, and gradients of just those entries.
//!
//! `SparseDelta` is the paper's unstructured mapping (SaRA, arXiv 2409.06633, equations 6 and 7); its gradient is the gather
//! `Take`. Fusion turns a `Take` of a product into a sampled product, so that no dense gradient exists.

use super::conv::Window;
use super::unary::second_order;
use super::{Case, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::ir::{Type, ValueId};
use crate::lower::{Lower, int};
use sara_kernels::{DType, masked_matmul_grad};

operator! {
    /// The weight with its trained entries in place. Operands: `w`, `idx`, `p`. Costs nothing: the trained values live inside
    /// the weight, which the update keeps equal to `p` at `idx`.
    SparseDelta {}

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(w), Some(idx), Some(p)] = inputs else { return Err("takes three operands".into()) };
        if idx.dtype != DType::U32 || p.dtype != DType::F32 || idx.shape != p.shape || w.dtype.computed() != DType::F32 {
            return Err("takes a weight, its index and its values".into());
        }
        Ok(vec![(*w).clone()])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let (idx, dy) = (g.input(1), g.dy());
        if wrt == 2 { g.emit(Take {}, &[dy, idx]).map(Some) } else { Ok(None) }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        l.alias(0, 0);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(SparseDelta {}, &["f32[3,4]", "u32[5]", "f32[5]"])]
    }
}

operator! {
    /// `y[k] = x[idx[k]]`, `x` taken as flat. Operands: `x`, `idx`.
    Take {}

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(idx)] = inputs else { return Err("takes two operands".into()) };
        if idx.dtype != DType::U32 {
            return Err("positions must be u32".into());
        }
        Ok(vec![x.with_shape(&idx.shape)])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        l.launch("take", &args, vec![]);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(Take {}, &["f32[3,4]", "u32[5]"])]
    }
}

operator! {
    /// Selected entries of a product summed over batches: `dp[k] = sum_b sum_n A_b[n, r_k] B_b[n, c_k]`, where
    /// `idx[k] = r_k * cols + c_k`. Operands: `a`, `b` (of rank 2 or 3), `idx`.
    MaskedMatMulGrad {
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
        /// Whether `a` is stored as `[rows, n]` instead of `[n, rows]`.
        a_t: bool,
        /// Whether `b` is stored as `[cols, n]` instead of `[n, cols]`.
        b_t: bool,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(a), Some(b), Some(idx)] = inputs else { return Err("takes three operands".into()) };
        let (batch, n, rows) = panel(a, self.a_t)?;
        if (batch, n, self.cols) != panel(b, self.b_t)? || rows != self.rows || idx.dtype != DType::U32 {
            return Err("the operands do not fit".into());
        }
        Ok(vec![a.with_shape(&idx.shape)])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { operands: &[0, 1], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let ty = l.input_type(0).clone();
        let Ok((batch, n, _)) = panel(&ty, self.a_t) else { unreachable!("inference admits only panels") };
        let work = l.temp(ty.dtype.computed(), masked_matmul_grad::work_len(batch, n, self.rows, self.a_t, self.b_t));
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), Some(l.output(0)), Some(work)];
        let scalars = [batch, n, self.rows, self.cols, self.a_t.into(), self.b_t.into()].map(int).to_vec();
        l.launch("masked_matmul_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(MaskedMatMulGrad { rows: 3, cols: 4, a_t: false, b_t: false }, &["f32[5,3]", "f32[5,4]", "u32[6]"]),
            Case::new(MaskedMatMulGrad { rows: 3, cols: 4, a_t: true, b_t: true }, &["f32[2,3,5]", "f32[2,4,5]", "u32[12]"]),
        ]
    }
}

fn panel(ty: &Type, transposed: bool) -> Result<(usize, usize, usize), String> {
    let (batch, [a, b]) = match ty.shape[..] {
        [a, b] => (1, [a, b]),
        [batch, a, b] => (batch, [a, b]),
        _ => return Err(format!("{ty} is not a matrix or a batch of matrices")),
    };
    Ok(if transposed { (batch, b, a) } else { (batch, a, b) })
}

operator! {
    /// Selected entries of a convolution's weight gradient. Operands: `x`, `dy`, `idx`.
    MaskedConvGrad {
        /// Spatial shape of the weight.
        kernel: Vec<usize>,
        /// See [`super::Conv`].
        groups: usize,
        /// See [`super::Conv`].
        strides: Vec<usize>,
        /// See [`super::Conv`].
        pads: Vec<usize>,
        /// See [`super::Conv`].
        dilations: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy), Some(idx)] = inputs else { return Err("takes three operands".into()) };
        if x.rank() != dy.rank() || x.rank() != self.kernel.len() + 2 || idx.dtype != DType::U32 {
            return Err("the operands do not fit".into());
        }
        Ok(vec![x.with_shape(&idx.shape)])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { operands: &[0, 1], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let (x, y) = (l.input_type(0).clone(), l.input_type(1).clone());
        let window = Window { groups: self.groups, strides: &self.strides, pads: &self.pads, dilations: &self.dilations };
        let scalars = window.scalars(&x.shape, &y.shape, &self.kernel);
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), Some(l.output(0))];
        l.launch("masked_conv_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        let op = MaskedConvGrad {
            kernel: vec![3, 3], groups: 1, strides: vec![1, 1], pads: vec![1, 1, 1, 1], dilations: vec![1, 1],
        };
        vec![Case::new(op, &["f32[1,3,4,4]", "f32[1,2,4,4]", "u32[20]"])]
    }
}
