//! LayerNorm: normalises the trailing dimensions (Ba, Kiros and Hinton 2016; ONNX LayerNormalization, version 17).
//!
//! `y = (x - mean) * rstd * scale + bias` with `rstd = 1 / sqrt(var + epsilon)` over each row.

use super::unary::second_order;
use super::{Case, Reduce, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::{Lower, int};
use sara_kernels::Scalar;

operator! {
    /// Layer normalisation over the dimensions from `axis` on. Operands: `x`, optional `scale` and `bias` in the shape of a
    /// row. Results: `y`, and `mean` and `rstd` with one element a row.
    LayerNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the variance.
        epsilon: f64,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), scale, bias] = inputs else { return Err("takes three operands".into()) };
        if self.axis >= x.rank() || !x.dtype.is_float() {
            return Err(format!("axis {} of {x} cannot be normalised", self.axis));
        }
        let row = x.with_shape(&x.shape[self.axis..]);
        if [scale, bias].into_iter().flatten().any(|t| **t != row) {
            return Err(format!("scale and bias must be {row}"));
        }
        let moments = x.with_shape(&x.shape[..self.axis]);
        Ok(vec![(*x).clone(), moments.clone(), moments])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let (x, dy, mean, rstd) = (g.input(0), g.dy(), g.output(1), g.output(2));
        let scale = g.try_input(1);
        Ok(Some(if wrt == 0 {
            g.emit_all(LayerNormGrad { axis: self.axis }, &[Some(x), Some(dy), scale, Some(mean), Some(rstd)])?[0]
        } else {
            g.emit_all(LayerNormGradAffine { axis: self.axis }, &[Some(x), Some(dy), Some(mean), Some(rstd)])?[wrt - 1]
        }))
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { widened: &[0], results: &[0], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [
            Some(l.input(0)), l.try_input(1), l.try_input(2), Some(l.output(0)), Some(l.output(1)), Some(l.output(2)),
        ];
        let mut scalars = extents(l.input_type(0), self.axis);
        scalars.push(Scalar::Float(self.epsilon));
        l.launch("layer_norm", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(LayerNorm { axis: 2, epsilon: 1e-5 }, &["f32[2,3,5]", "f32[5]", "f32[5]"]),
            Case::new(LayerNorm { axis: 1, epsilon: 1e-6 }, &["f32[2,3,2]", "f32[3,2]", "_"]),
            Case::new(LayerNorm { axis: 1, epsilon: 1e-6 }, &["f32[2,7]", "_", "_"]),
        ]
    }
}

operator! {
    /// Gradient with respect to the input. Operands: `x`, `dy`, optional `scale`, `mean`, `rstd`.
    LayerNormGrad {
        /// First normalised axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy), _, Some(_), Some(_)] = inputs else { return Err("takes five operands".into()) };
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
        let args = [
            Some(l.input(0)), Some(l.input(1)), l.try_input(2), Some(l.input(3)), Some(l.input(4)), Some(l.output(0)),
        ];
        let scalars = extents(l.input_type(0), self.axis);
        l.launch("layer_norm_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(LayerNormGrad { axis: 1 }, &["f32[2,5]", "f32[2,5]", "f32[5]", "f32[2]", "f32[2]"])]
    }
}

operator! {
    /// Gradients with respect to scale and bias. Operands: `x`, `dy`, `mean`, `rstd`.
    LayerNormGradAffine {
        /// First normalised axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy), Some(_), Some(_)] = inputs else { return Err("takes four operands".into()) };
        if x != dy || self.axis >= x.rank() { return Err("the operands do not fit".into()) }
        let row = x.with_shape(&x.shape[self.axis..]);
        Ok(vec![row.clone(), row])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [
            Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), Some(l.input(3)), Some(l.output(0)), Some(l.output(1)),
        ];
        let scalars = extents(l.input_type(0), self.axis);
        l.launch("layer_norm_grad_affine", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(LayerNormGradAffine { axis: 1 }, &["f32[2,5]", "f32[2,5]", "f32[2]", "f32[2]"])]
    }
}

/// Rows and columns of a tensor whose rows start at `axis`.
pub(super) fn extents(x: &Type, axis: usize) -> Vec<Scalar> {
    let rows: usize = x.shape[..axis].iter().product();
    let cols: usize = x.shape[axis..].iter().product();
    vec![int(rows), int(cols)]
}

/// ONNX LayerNormalization. Scale and bias may broadcast to a row.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let axis = n.int("axis", -1)?;
    let axis = n.axis_of(axis, shape.len())?;
    let epsilon = n.float("epsilon", 1e-5)?;
    n.int("stash_type", 1)?;
    let row = |n: &mut OnnxNode<'_, '_>, i: usize| {
        n.optional(i)
            .map(|v| {
                let own = n.ty(v).shape.clone();
                let v = if own.len() > shape.len() - axis
                    && own.iter().product::<usize>() == shape[axis..].iter().product::<usize>()
                {
                    n.reshape(v, &shape[axis..])?
                } else {
                    v
                };
                n.expand(v, &shape[axis..])
            })
            .transpose()
    };
    let (scale, bias) = (row(n, 1)?, row(n, 2)?);
    let y = n.emit_all(LayerNorm { axis, epsilon }, &[Some(x), scale, bias])?[0];
    if n.outputs() == 1 {
        return Ok(vec![y]);
    }
    // The mean, and one over the deviation.
    let mean = Reduce { op: "mean".into(), axes: (axis..shape.len()).collect(), keepdims: true };
    let middle = n.emit(mean.clone(), &[x])?;
    let centred = n.binary("sub", x, middle)?;
    let square = n.binary("mul", centred, centred)?;
    let variance = n.emit(mean, &[square])?;
    let epsilon = n.scalar_like(x, epsilon)?;
    let variance = n.binary("add", variance, epsilon)?;
    let deviation = n.unary("sqrt", variance)?;
    Ok(vec![y, middle, n.unary("reciprocal", deviation)?])
}
