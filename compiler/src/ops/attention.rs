//! Attention: `softmax(scale * q k^T + mask) v` for each head, without ever holding the scores of more than a block of queries
//! (FlashAttention, arXiv 2205.14135). The backward needs the result and the log-sum-exp of each row.

use super::unary::second_order;
use super::{Case, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::{Error, Result};
use crate::ir::{Type, ValueId, broadcast, broadcast_strides};
use crate::lower::{Lower, int};
use sara_kernels::{Scalar, attention};

operator! {
    /// Scaled dot-product attention. Operands: `q` `[batch, heads, queries, dim]`, `k` `[batch, heads, keys, dim]`, `v`
    /// `[batch, heads, keys, value_dim]`, optional additive `mask` that broadcasts to `[batch, heads, queries, keys]`. Results:
    /// `y` `[batch, heads, queries, value_dim]` and the log-sum-exp of the scores `[batch, heads, queries]`.
    Attention {
        /// Factor of the scores.
        scale: f64,
        /// Whether operands of products are rounded to bfloat16.
        half: bool,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(q), Some(k), Some(v), mask] = inputs else { return Err("takes four operands".into()) };
        let ([b, h, t, d], [bk, hk, s, dk], [bv, hv, sv, e]) = (four(q)?, four(k)?, four(v)?);
        if (b, h, d) != (bk, hk, dk) || (b, h, s) != (bv, hv, sv) || !q.dtype.is_float() {
            return Err("queries, keys and values do not fit".into());
        }
        let scores = [b, h, t, s];
        if mask.is_some_and(|m| broadcast(&m.shape, &scores).is_none_or(|s| s != scores) || m.dtype != q.dtype) {
            return Err(format!("the mask does not broadcast to {scores:?}"));
        }
        Ok(vec![q.with_shape(&[b, h, t, e]), q.with_shape(&[b, h, t])])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        if wrt == 3 {
            return Err(Error::Option("an attention mask that trains is not supported".into()));
        }
        let [q, k, v] = [g.input(0), g.input(1), g.input(2)];
        let (y, lse, dy) = (g.output(0), g.output(1), g.dy());
        let mask = g.try_input(3);
        let inputs = [Some(q), Some(k), Some(v), mask, Some(y), Some(lse), Some(dy)];
        Ok(Some(g.emit_all(AttentionGrad { scale: self.scale, half: self.half }, &inputs)?[wrt]))
    }

    fn rounded(&self, inputs: &[Option<&Type>]) -> Rounded {
        let width = |i: usize| inputs.get(i).copied().flatten().and_then(|t| t.shape.last().copied());
        match (width(0), width(2)) {
            (Some(dim), Some(value_dim)) if self.half && attention::admits_rounded(dim, value_dim) => {
                Rounded { operands: &[0, 1, 2], results: &[0], ..Rounded::default() }
            }
            _ => Rounded::default(),
        }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let scalars = extents(l, self.scale, self.half);
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), l.try_input(3), Some(l.output(0)), Some(l.output(1))];
        l.launch("attention", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Attention { scale: 0.5, half: false }, &["f32[2,2,5,4]", "f32[2,2,3,4]", "f32[2,2,3,4]", "_"]),
            Case::new(Attention { scale: 0.7, half: false }, &["f32[1,2,3,5]", "f32[1,2,3,5]", "f32[1,2,3,2]", "f32[1,1,3,3]"]),
            Case::new(Attention { scale: 1.0, half: false }, &["f32[2,1,2,3]", "f32[2,1,4,3]", "f32[2,1,4,3]", "f32[2,1,1,4]"]),
            Case::new(Attention { scale: 0.4, half: false }, &["f32[1,2,2,3]", "f32[1,2,4,3]", "f32[1,2,4,3]", "f32[2,4]"]),
        ]
    }
}

operator! {
    /// Gradients with respect to queries, keys and values. Operands: `q`, `k`, `v`, optional `mask`, `y`, `lse`, `dy`.
    AttentionGrad {
        /// Factor of the scores.
        scale: f64,
        /// Whether operands of products are rounded to bfloat16.
        half: bool,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(q), Some(k), Some(v), _, Some(y), Some(_), Some(dy)] = inputs else {
            return Err("takes seven operands".into());
        };
        if y != dy { return Err("the operands do not fit".into()) }
        Ok([q, k, v].map(|t| (*t).clone()).to_vec())
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn rounded(&self, inputs: &[Option<&Type>]) -> Rounded {
        let width = |i: usize| inputs.get(i).copied().flatten().and_then(|t| t.shape.last().copied());
        match (width(0), width(2)) {
            (Some(dim), Some(value_dim)) if self.half && attention::admits_rounded(dim, value_dim) => {
                Rounded { operands: &[0, 1, 2, 4, 6], results: &[0, 1, 2], ..Rounded::default() }
            }
            _ => Rounded::default(),
        }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let scalars = extents(l, self.scale, self.half);
        let mut args: Vec<_> = (0..7).map(|i| l.try_input(i)).collect();
        args.extend((0..3).map(|i| Some(l.output(i))));
        l.launch("attention_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(AttentionGrad { scale: 0.5, half: false }, &["f32[1,2,3,4]", "f32[1,2,5,4]", "f32[1,2,5,2]", "f32[3,5]", "f32[1,2,3,2]", "f32[1,2,3]", "f32[1,2,3,2]"])]
    }
}

fn four(ty: &Type) -> Result<[usize; 4], String> {
    <[usize; 4]>::try_from(ty.shape.as_slice()).map_err(|_| format!("{ty} is not of rank 4"))
}

fn extents(l: &mut Lower<'_>, scale: f64, half: bool) -> Vec<Scalar> {
    let (q, k, v) = (&l.input_type(0).shape, &l.input_type(1).shape, &l.input_type(2).shape);
    let (b, h, t, d) = (q[0], q[1], q[2], q[3]);
    let (s, e) = (k[2], v[3]);
    let scalars = [b, h, t, s, d, e].map(int);
    let mask = match l.try_input(3) {
        Some(_) => broadcast_strides(&l.input_type(3).shape, &[b, h, t, s]),
        None => vec![0; 4],
    };
    scalars.into_iter().chain([Scalar::Ints(mask), Scalar::Float(scale), int(half.into())]).collect()
}
