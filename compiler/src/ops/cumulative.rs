//! Sums and products of all elements so far along an axis (ONNX CumSum, versions 11 to 14, and CumProd, 26), by doubling: after
//! step `s` each element holds the last `2^s`.

use super::{Embed, Slice};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::ValueId;

/// ONNX CumSum and CumProd.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let axis = n.const_ints(1)?.first().copied().unwrap_or(0);
    let axis = n.axis_of(axis, shape.len())?;
    let (exclusive, reverse) = (n.int("exclusive", 0)? != 0, n.int("reverse", 0)? != 0);
    let (op, neutral) = if n.op_type() == "CumSum" { ("add", 0.0) } else { ("mul", 1.0) };
    let dim = shape[axis];
    let mut y = if exclusive { shift(n, x, axis, 1, reverse, neutral)? } else { x };
    let mut by = 1;
    while by < dim {
        let before = shift(n, y, axis, by, reverse, neutral)?;
        y = n.binary(op, y, before)?;
        by *= 2;
    }
    Ok(vec![y])
}

/// `x` moved by `by` places along `axis`, towards the start if `back`; `neutral` fills the gap.
fn shift(n: &mut OnnxNode<'_, '_>, x: ValueId, axis: usize, by: usize, back: bool, neutral: f64) -> Result<ValueId> {
    let shape = n.ty(x).shape.clone();
    let by = by.min(shape[axis]);
    let (zeros, ones) = (vec![0; shape.len()], vec![1; shape.len()]);
    let mut slice = Slice { starts: zeros.clone(), steps: ones.clone(), sizes: shape.clone() };
    slice.sizes[axis] -= by;
    let mut embed = Embed { shape, starts: zeros, steps: ones, value: neutral };
    let moved = if back { &mut slice.starts } else { &mut embed.starts };
    moved[axis] = by as i64;
    let kept = n.emit(slice, &[x])?;
    n.emit(embed, &[kept])
}
