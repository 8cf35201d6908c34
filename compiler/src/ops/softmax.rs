//! Softmax: `y_i = exp(x_i - m) / sum_j exp(x_j - m)`, `m = max x`, along an axis (ONNX Softmax and LogSoftmax, versions 1 to
//! 13). Gradient: `dx = y * (dy - sum(dy * y))`; it needs `y`, not `x`.

use super::unary::second_order;
use super::{Case, Reduce, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::{Lower, int};
use sara_kernels::Scalar;

operator! {
    /// Softmax along `axis`.
    Softmax {
        /// The axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        if self.axis >= x.rank() || !x.dtype.is_float() {
            return Err(format!("axis {} of {x} cannot be normalised", self.axis));
        }
        Ok(vec![(*x).clone()])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        let (y, dy) = (g.output(0), g.dy());
        g.emit(SoftmaxGrad { axis: self.axis }, &[y, dy]).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.output(0))];
        let scalars = extents(l.input_type(0), self.axis);
        l.launch("softmax", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Softmax { axis: 1 }, &["f32[2,5]"]),
            Case::new(Softmax { axis: 1 }, &["f32[2,3,4]"]),
        ]
    }
}

operator! {
    /// `dx = y * (dy - sum(dy * y))`. Operands: `y`, `dy`.
    SoftmaxGrad {
        /// The axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(y), Some(dy)] = inputs else { return Err("takes two operands".into()) };
        if y != dy || self.axis >= y.rank() {
            return Err("the operands do not fit".into());
        }
        Ok(vec![(*y).clone()])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        let scalars = extents(l.input_type(0), self.axis);
        l.launch("softmax_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(SoftmaxGrad { axis: 0 }, &["f32[3,2]", "f32[3,2]"])]
    }
}

fn extents(ty: &Type, axis: usize) -> Vec<Scalar> {
    let outer: usize = ty.shape[..axis].iter().product();
    let inner: usize = ty.shape[axis + 1..].iter().product();
    vec![int(outer), int(ty.shape[axis]), int(inner)]
}

/// The operand as ONNX normalises it, its axis, and its shape. Before version 13 all dimensions from `axis` on were one.
fn rows(n: &mut OnnxNode<'_, '_>) -> Result<(ValueId, usize, Vec<usize>)> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let flat = n.opset() < 13;
    let axis = n.int("axis", if flat { 1 } else { -1 })?;
    let axis = n.axis_of(axis, shape.len())?;
    if flat && axis + 1 != shape.len() {
        let rows: usize = shape[..axis].iter().product();
        let cols: usize = shape[axis..].iter().product();
        return Ok((n.reshape(x, &[rows, cols])?, 1, shape));
    }
    Ok((x, axis, shape))
}

/// ONNX Softmax.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, axis, shape) = rows(n)?;
    let y = n.emit(Softmax { axis }, &[x])?;
    n.reshape(y, &shape).map(|y| vec![y])
}

/// ONNX LogSoftmax: `x - m - log(sum exp(x - m))`. The logarithm of a softmax would lose what is far below the largest element.
pub(super) fn import_log(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, axis, shape) = rows(n)?;
    let y = logarithm(n, x, axis)?;
    n.reshape(y, &shape).map(|y| vec![y])
}

/// The logarithm of a softmax.
pub(super) fn logarithm(n: &mut OnnxNode<'_, '_>, x: ValueId, axis: usize) -> Result<ValueId> {
    let reduce = |op: &str| Reduce { op: op.to_owned(), axes: vec![axis], keepdims: true };
    let max = n.emit(reduce("max"), &[x])?;
    let less = n.binary("sub", x, max)?;
    let exp = n.unary("exp", less)?;
    let sum = n.emit(reduce("sum"), &[exp])?;
    let log = n.unary("log", sum)?;
    n.binary("sub", less, log)
}
