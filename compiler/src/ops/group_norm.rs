//! GroupNorm: normalises groups of channels (Wu and He 2018; ONNX GroupNormalization, versions 18 and 21;
//! InstanceNormalization, versions 1 to 22, is the case of one channel a group). Also BatchNormalization at inference, which
//! is an affine map.
//!
//! `y = (x - mean) * rstd * scale + bias` with `rstd = 1 / sqrt(var + epsilon)` over each group.

use super::unary::second_order;
use super::{Case, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::{Lower, int};
use sara_kernels::Scalar;

operator! {
    /// Group normalisation. Operands: `x` `[n, channels, ..]`, optional `scale` and `bias` `[channels]`. Results: `y`, and
    /// `mean` and `rstd` `[n, groups]`.
    GroupNorm {
        /// Number of groups.
        groups: usize,
        /// Added to the variance.
        epsilon: f64,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), scale, bias] = inputs else { return Err("takes three operands".into()) };
        if x.rank() < 2 || self.groups == 0 || x.shape[1] % self.groups != 0 || !x.dtype.is_float() {
            return Err(format!("{x} does not divide into {} groups", self.groups));
        }
        if [scale, bias].into_iter().flatten().any(|t| t.shape != [x.shape[1]] || t.dtype != x.dtype) {
            return Err("scale and bias need one element a channel".into());
        }
        let moments = x.with_shape(&[x.shape[0], self.groups]);
        Ok(vec![(*x).clone(), moments.clone(), moments])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let (x, dy, mean, rstd) = (g.input(0), g.dy(), g.output(1), g.output(2));
        let scale = g.try_input(1);
        let op = (self.groups, self.epsilon);
        Ok(Some(if wrt == 0 {
            let op = GroupNormGrad { groups: op.0, epsilon: op.1 };
            g.emit_all(op, &[Some(x), Some(dy), scale, Some(mean), Some(rstd)])?[0]
        } else {
            let op = GroupNormGradAffine { groups: op.0, epsilon: op.1 };
            g.emit_all(op, &[Some(x), Some(dy), Some(mean), Some(rstd)])?[wrt - 1]
        }))
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { widened: &[0], results: &[0], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [
            Some(l.input(0)), l.try_input(1), l.try_input(2), Some(l.output(0)), Some(l.output(1)), Some(l.output(2)),
        ];
        let scalars = extents(l.input_type(0), self.groups, self.epsilon);
        l.launch("group_norm", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(GroupNorm { groups: 2, epsilon: 1e-5 }, &["f32[2,4,3,2]", "f32[4]", "f32[4]"]),
            Case::new(GroupNorm { groups: 3, epsilon: 1e-6 }, &["f32[1,3,5]", "_", "_"]),
        ]
    }
}

operator! {
    /// Gradient with respect to the input. Operands: `x`, `dy`, optional `scale`, `mean`, `rstd`.
    GroupNormGrad {
        /// Number of groups.
        groups: usize,
        /// Added to the variance.
        epsilon: f64,
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
        let scalars = extents(l.input_type(0), self.groups, self.epsilon);
        l.launch("group_norm_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(GroupNormGrad { groups: 2, epsilon: 1e-5 }, &["f32[2,4,3]", "f32[2,4,3]", "f32[4]", "f32[2,2]", "f32[2,2]"])]
    }
}

operator! {
    /// Gradients with respect to scale and bias. Operands: `x`, `dy`, `mean`, `rstd`.
    GroupNormGradAffine {
        /// Number of groups.
        groups: usize,
        /// Added to the variance.
        epsilon: f64,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy), Some(_), Some(_)] = inputs else { return Err("takes four operands".into()) };
        if x != dy { return Err("the operands do not fit".into()) }
        let affine = x.with_shape(&[x.shape[1]]);
        Ok(vec![affine.clone(), affine])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [
            Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), Some(l.input(3)), Some(l.output(0)), Some(l.output(1)),
        ];
        let scalars = extents(l.input_type(0), self.groups, self.epsilon);
        l.launch("group_norm_grad_affine", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(GroupNormGradAffine { groups: 2, epsilon: 1e-5 }, &["f32[2,4,3]", "f32[2,4,3]", "f32[2,2]", "f32[2,2]"])]
    }
}

fn extents(x: &Type, groups: usize, epsilon: f64) -> Vec<Scalar> {
    let inner: usize = x.shape[2..].iter().product();
    vec![int(x.shape[0]), int(x.shape[1]), int(groups), int(inner), Scalar::Float(epsilon)]
}

/// ONNX GroupNormalization. Version 18 has one scale and bias a group, version 21 one a channel.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, mut scale, mut bias) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let channels = n.ty(x).shape.get(1).copied().unwrap_or(0);
    let groups = usize::try_from(n.int("num_groups", 0)?).unwrap_or(0);
    let epsilon = n.float("epsilon", 1e-5)?;
    n.int("stash_type", 1)?;
    if n.opset() < 21 && groups > 0 && channels % groups == 0 {
        for v in [&mut scale, &mut bias] {
            let column = n.reshape(*v, &[groups, 1])?;
            let wide = n.expand(column, &[groups, channels / groups])?;
            *v = n.reshape(wide, &[channels])?;
        }
    }
    n.emit(GroupNorm { groups, epsilon }, &[x, scale, bias]).map(|y| vec![y])
}

/// ONNX InstanceNormalization.
pub(super) fn import_instance(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let inputs = [n.input(0)?, n.input(1)?, n.input(2)?];
    let groups = n.ty(inputs[0]).shape.get(1).copied().unwrap_or(0);
    let epsilon = n.float("epsilon", 1e-5)?;
    n.emit(GroupNorm { groups, epsilon }, &inputs).map(|y| vec![y])
}

/// ONNX BatchNormalization, versions 7 to 15, at inference.
pub(super) fn import_batch(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let rank = n.ty(x).rank();
    if rank < 2 {
        return Err(n.fail("takes a tensor of rank 2 or more"));
    }
    let epsilon = n.float("epsilon", 1e-5)?;
    n.float("momentum", 0.9)?;
    if n.int("training_mode", 0)? != 0 || n.outputs() > 1 {
        return Err(n.fail("is in training mode; export the model with `.eval()`"));
    }
    let mut column = vec![1; rank - 1];
    let mut channel = |n: &mut OnnxNode<'_, '_>, i: usize| {
        let v = n.input(i)?;
        column[0] = n.ty(v).len();
        n.reshape(v, &column)
    };
    let [scale, bias, mean, var] = [channel(n, 1)?, channel(n, 2)?, channel(n, 3)?, channel(n, 4)?];
    let epsilon = n.scalar_like(var, epsilon)?;
    let var = n.binary("add", var, epsilon)?;
    let std = n.unary("sqrt", var)?;
    let slope = n.binary("div", scale, std)?;
    let centred = n.binary("sub", x, mean)?;
    let scaled = n.binary("mul", centred, slope)?;
    n.binary("add", scaled, bias).map(|y| vec![y])
}
