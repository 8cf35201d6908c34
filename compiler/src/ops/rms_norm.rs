//! RmsNorm: divides the trailing dimensions by their root mean square (Zhang and Sennrich 2019; ONNX RMSNormalization, version
//! 23).
//!
//! `y = x * rstd * scale` with `rstd = 1 / sqrt(mean(x^2) + epsilon)` over each row.

use super::layer_norm::extents;
use super::unary::second_order;
use super::{Case, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::Lower;
use sara_kernels::Scalar;

operator! {
    /// Root-mean-square normalisation over the dimensions from `axis` on. Operands: `x`, optional `scale` in the shape of a
    /// row. Results: `y`, and `rstd` with one element a row.
    RmsNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the mean square.
        epsilon: f64,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), scale] = inputs else { return Err("takes two operands".into()) };
        if self.axis >= x.rank() || !x.dtype.is_float() {
            return Err(format!("axis {} of {x} cannot be normalised", self.axis));
        }
        let row = x.with_shape(&x.shape[self.axis..]);
        if scale.is_some_and(|t| *t != row) {
            return Err(format!("scale must be {row}"));
        }
        Ok(vec![(*x).clone(), x.with_shape(&x.shape[..self.axis])])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let (x, dy, rstd) = (g.input(0), g.dy(), g.output(1));
        let scale = g.try_input(1);
        Ok(Some(if wrt == 0 {
            g.emit_all(RmsNormGrad { axis: self.axis }, &[Some(x), Some(dy), scale, Some(rstd)])?[0]
        } else {
            g.emit(RmsNormGradScale { axis: self.axis }, &[x, dy, rstd])?
        }))
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { widened: &[0], results: &[0], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), l.try_input(1), Some(l.output(0)), Some(l.output(1))];
        let mut scalars = extents(l.input_type(0), self.axis);
        scalars.push(Scalar::Float(self.epsilon));
        l.launch("rms_norm", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(RmsNorm { axis: 2, epsilon: 1e-6 }, &["f32[2,3,5]", "f32[5]"]),
            Case::new(RmsNorm { axis: 1, epsilon: 1e-6 }, &["f32[2,4]", "_"]),
            Case::new(RmsNorm { axis: 1, epsilon: 1e-5 }, &["f32[2,3,2]", "f32[3,2]"]),
        ]
    }
}

operator! {
    /// Gradient with respect to the input. Operands: `x`, `dy`, optional `scale`, `rstd`.
    RmsNormGrad {
        /// First normalised axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy), _, Some(_)] = inputs else { return Err("takes four operands".into()) };
        if x != dy { return Err("the operands do not fit".into()) }
        Ok(vec![(*x).clone()])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { widened: &[0], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), l.try_input(2), Some(l.input(3)), Some(l.output(0))];
        let scalars = extents(l.input_type(0), self.axis);
        l.launch("rms_norm_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(RmsNormGrad { axis: 1 }, &["f32[2,5]", "f32[2,5]", "f32[5]", "f32[2]"])]
    }
}

operator! {
    /// Gradient with respect to the scale. Operands: `x`, `dy`, `rstd`.
    RmsNormGradScale {
        /// First normalised axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy), Some(_)] = inputs else { return Err("takes three operands".into()) };
        if x != dy || self.axis >= x.rank() { return Err("the operands do not fit".into()) }
        Ok(vec![x.with_shape(&x.shape[self.axis..])])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), Some(l.output(0))];
        let scalars = extents(l.input_type(0), self.axis);
        l.launch("rms_norm_grad_scale", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(RmsNormGradScale { axis: 1 }, &["f32[2,5]", "f32[2,5]", "f32[2]"])]
    }
}

/// ONNX RMSNormalization.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let shape = n.ty(x).shape.clone();
    let axis = n.int("axis", -1)?;
    let axis = n.axis_of(axis, shape.len())?;
    let epsilon = n.float("epsilon", 1e-5)?;
    n.int("stash_type", 1)?;
    let scale = n.expand(scale, &shape[axis..])?;
    n.emit(RmsNorm { axis, epsilon }, &[x, scale]).map(|y| vec![y])
}
