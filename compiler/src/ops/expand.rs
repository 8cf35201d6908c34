//! Expand: repeats a tensor to a shape it broadcasts to (ONNX Expand, versions 8 to 13, and Tile, versions 6 to 13).

use super::{Case, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId, broadcast, broadcast_strides, strides};
use crate::lower::Lower;

operator! {
    /// `y = x`, repeated to `shape`.
    Expand {
        /// Shape of the result.
        shape: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        if broadcast(&x.shape, &self.shape).as_ref() != Some(&self.shape) {
            return Err(format!("{:?} does not broadcast to {:?}", x.shape, self.shape));
        }
        Ok(vec![x.with_shape(&self.shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Ok(Some(g.dy()))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let from = broadcast_strides(&l.input_type(0).shape, &self.shape);
        let (x, y) = (l.input(0), l.output(0));
        l.copy(x, (0, &from), y, (0, &strides(&self.shape)), &self.shape);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Expand { shape: vec![2, 3, 4] }, &["f32[3,1]"]),
            Case::new(Expand { shape: vec![2, 2] }, &["i64[]"]),
        ]
    }
}

/// ONNX Expand: the shape given and that of the operand broadcast to the result's.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let wanted = n.const_sizes(1)?;
    let own = n.ty(x).shape.clone();
    let shape = broadcast(&own, &wanted).ok_or_else(|| n.fail(format!("{own:?} does not broadcast to {wanted:?}")))?;
    if n.is_per_sample(x) && wanted.len() == 1 && shape == own {
        // The result has a dimension, so it is no scalar any more.
        return n.view(x, &shape).map(|y| vec![y]);
    }
    n.expand(x, &shape).map(|y| vec![y])
}

/// ONNX Tile: repeating a dimension is repeating a new one before it.
pub(super) fn import_tile(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let repeats = n.const_sizes(1)?;
    let own = n.ty(x).shape.clone();
    if repeats.len() != own.len() {
        return Err(n.fail(format!("{} repeats for rank {}", repeats.len(), own.len())));
    }
    let (mut split, mut wide, mut joined) = (Vec::new(), Vec::new(), Vec::new());
    for (&dim, &times) in own.iter().zip(&repeats) {
        split.extend([1, dim]);
        wide.extend([times, dim]);
        joined.push(times.saturating_mul(dim));
    }
    let split = n.reshape(x, &split)?;
    let wide = n.expand(split, &wide)?;
    n.reshape(wide, &joined).map(|y| vec![y])
}
