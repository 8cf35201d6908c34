//! Reshape: the same elements in another shape. Costs nothing: the result is the operand's memory.
//!
//! Serves ONNX Reshape, Flatten, Squeeze, Unsqueeze, Identity and Dropout at inference.

use super::{Case, Op, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::Lower;
use sara_kernels::DType;

operator! {
    /// `y = x` with shape `shape`.
    Reshape {
        /// Shape of the result.
        shape: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        let y = x.with_shape(&self.shape);
        if y.len() != x.len() {
            return Err(format!("{} elements cannot have shape {:?}", x.len(), self.shape));
        }
        Ok(vec![y])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        let shape = g.ty(g.input(0)).shape;
        let dy = g.dy();
        g.reshape(dy, &shape).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        l.alias(0, 0);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(Op::from(Reshape { shape: vec![3, 2, 1] }), &["f32[2,3]"]), Case::new(Reshape { shape: vec![] }, &["f32[1,1]"])]
    }
}

/// ONNX Reshape, versions 5 to 25: `0` copies a dimension unless `allowzero`, `-1` is what remains.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let wanted = if n.opset() < 5 { n.ints("shape")?.unwrap_or_default() } else { n.const_ints(1)? };
    let allow_zero = n.int("allowzero", 0)? != 0;
    if n.is_per_sample(x) && wanted.iter().all(|d| [1, -1].contains(d)) {
        return spread(n, x, wanted.len()).map(|y| vec![y]);
    }
    let own = n.ty(x).shape.clone();
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, &dim) in wanted.iter().enumerate() {
        shape.push(match dim {
            -1 if open.replace(i).is_none() => 1,
            0 if !allow_zero => *own
                .get(i)
                .ok_or_else(|| n.fail(format!("shape {wanted:?} copies dimension {i}, which is not there")))?,
            dim => usize::try_from(dim).map_err(|_| n.fail(format!("shape {wanted:?} is not legal")))?,
        });
    }
    if let Some(i) = open {
        let known = shape.iter().fold(1, |n: usize, d| n.saturating_mul(*d));
        let len = n.ty(x).len();
        if known == 0 || !len.is_multiple_of(known) {
            return Err(n.fail(format!("{len} elements do not fit shape {wanted:?}")));
        }
        shape[i] = len / known;
    }
    n.reshape(x, &shape).map(|y| vec![y])
}

/// ONNX Flatten, versions 1 to 25.
pub(super) fn import_flatten(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let axis = n.int("axis", 1)?;
    let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let axis =
        usize::try_from(axis).ok().filter(|a| *a <= shape.len()).ok_or_else(|| n.fail("axis is out of range"))?;
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis..].iter().product();
    n.reshape(x, &[outer, inner]).map(|y| vec![y])
}

/// ONNX Squeeze, versions 1 to 25.
pub(super) fn import_squeeze(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let axes = match n.axes(1, 13, shape.len())? {
        Some(axes) => axes,
        None => (0..shape.len()).filter(|&i| shape[i] == 1).collect(),
    };
    if let Some(axis) = axes.iter().find(|a| shape[**a] != 1) {
        return Err(n.fail(format!("dimension {axis} of {shape:?} is not 1")));
    }
    let kept: Vec<usize> = (0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i]).collect();
    n.reshape(x, &kept).map(|y| vec![y])
}

/// ONNX Unsqueeze, versions 1 to 25.
pub(super) fn import_unsqueeze(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.logical_shape(x);
    let count = n.raw_axes(1, 13)?.map_or(0, |a| a.len());
    let axes = n.axes(1, 13, shape.len() + count)?.ok_or_else(|| n.fail("axes are missing"))?;
    if n.is_per_sample(x) {
        return spread(n, x, count).map(|y| vec![y]);
    }
    let mut own = shape.into_iter();
    let mut result = Vec::new();
    for i in 0..own.len() + axes.len() {
        result.push(if axes.contains(&i) { 1 } else { own.next().unwrap_or(1) });
    }
    n.reshape(x, &result).map(|y| vec![y])
}

/// What is a scalar to the model and one element for each sample here, as a tensor of `rank` dimensions of which the first is the
/// batch.
fn spread(n: &mut OnnxNode<'_, '_>, x: ValueId, rank: usize) -> Result<ValueId> {
    if rank == 0 {
        return Ok(x);
    }
    let mut shape = vec![1; rank];
    shape[0] = n.ty(x).len();
    n.view(x, &shape)
}

/// ONNX Identity, versions 1 to 25.
pub(super) fn import_identity(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    Ok(vec![n.input(0)?])
}

/// ONNX Dropout, versions 7 to 22, at inference: the identity.
pub(super) fn import_dropout(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    n.float("ratio", 0.5)?;
    n.int("seed", 0)?;
    n.optional(1);
    let ratio = n.optional_scalar(1).ok().flatten();
    if let Some(training) = n.optional(2)
        && n.graph().constant::<u8>(training).is_none_or(|t| t.first().is_none_or(|t| *t != 0))
        && ratio != Some(0.0)
    {
        return Err(n.fail("is in training mode; export the model with `.eval()`"));
    }
    if n.outputs() == 1 {
        return Ok(vec![x]);
    }
    // The mask, which drops nothing.
    let shape = n.ty(x).shape.clone();
    let kept = n.add_const(DType::Bool, &[], &[1u8]);
    Ok(vec![x, n.expand(kept, &shape)?])
}
