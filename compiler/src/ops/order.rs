//! Order along an axis: ONNX ArgMax and ArgMin (versions 1 to 13), TopK (1 to 24), Hardmax (1 to 13).
//!
//! They are made of comparisons: an element's rank is the number of those that come before it.

use super::{Concat, Reduce, Select};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::ValueId;
use crate::limits::COMPARISONS;
use sara_kernels::DType;

/// Positions along `axis`, in a shape that broadcasts.
fn positions(n: &mut OnnxNode<'_, '_>, rank: usize, axis: usize, dim: usize) -> ValueId {
    let mut shape = vec![1; rank];
    shape[axis] = dim;
    n.add_const(DType::I64, &shape, &(0..dim as i64).collect::<Vec<_>>())
}

fn reduce(n: &mut OnnxNode<'_, '_>, op: &str, x: ValueId, axis: usize) -> Result<ValueId> {
    n.emit(Reduce { op: op.to_owned(), axes: vec![axis], keepdims: true }, &[x])
}

/// Position of the largest (`max`) or smallest (`min`) element along `axis`, the first or the last of equal ones.
fn extreme(n: &mut OnnxNode<'_, '_>, x: ValueId, axis: usize, op: &str, last: bool) -> Result<ValueId> {
    let shape = n.ty(x).shape.clone();
    let best = reduce(n, op, x, axis)?;
    let found = n.binary("equal", x, best)?;
    let at = positions(n, shape.len(), axis, shape[axis]);
    let beyond = n.add_const(DType::I64, &[], &[if last { -1 } else { shape[axis] as i64 }]);
    let at = n.emit(Select {}, &[found, at, beyond])?;
    reduce(n, if last { "max" } else { "min" }, at, axis)
}

/// ONNX ArgMax and ArgMin.
pub(super) fn import_arg(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let mut shape = n.ty(x).shape.clone();
    let axis = n.int("axis", 0)?;
    let axis = n.axis_of(axis, shape.len())?;
    let (keep, last) = (n.int("keepdims", 1)? != 0, n.int("select_last_index", 0)? != 0);
    let op = if n.op_type() == "ArgMax" { "max" } else { "min" };
    let y = extreme(n, x, axis, op, last)?;
    if keep {
        return Ok(vec![y]);
    }
    shape.remove(axis);
    n.reshape(y, &shape).map(|y| vec![y])
}

/// ONNX Hardmax: 1 at the first largest element along an axis, 0 elsewhere. Before version 13 the axes from `axis` on are one.
pub(super) fn import_hardmax(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let whole = n.opset() < 13;
    let axis = n.int("axis", if whole { 1 } else { -1 })?;
    let axis = n.axis_of(axis, shape.len())?;
    let (x, axis) = match whole {
        false => (x, axis),
        true => {
            let outer: usize = shape[..axis].iter().product();
            let inner: usize = shape[axis..].iter().product();
            (n.reshape(x, &[outer, inner])?, 1)
        }
    };
    let ty = n.ty(x).clone();
    let best = extreme(n, x, axis, "max", false)?;
    let at = positions(n, ty.rank(), axis, ty.shape[axis]);
    let hot = n.binary("equal", at, best)?;
    let hot = n.cast(hot, ty.dtype)?;
    n.reshape(hot, &shape).map(|y| vec![y])
}

/// ONNX TopK. The results are sorted also where they need not be.
pub(super) fn import_top_k(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let ty = n.ty(x).clone();
    let rank = ty.rank();
    let axis = n.int("axis", -1)?;
    let axis = n.axis_of(axis, rank)?;
    let k = if n.opset() < 10 { n.int("k", 0)? } else { n.const_ints(1)?.first().copied().unwrap_or(0) };
    let largest = n.int("largest", 1)? != 0;
    n.int("sorted", 1)?;
    let dim = ty.shape[axis];
    let k =
        usize::try_from(k).ok().filter(|k| *k <= dim).ok_or_else(|| n.fail(format!("k = {k} of {dim} elements")))?;
    if ty.len().checked_mul(dim).is_none_or(|c| c > COMPARISONS) {
        return Err(n.fail(format!("sorting {ty} along axis {axis} is not supported: it is too large")));
    }
    // Every element (axis) against every other (axis + 1).
    let mut one = ty.shape.clone();
    one.insert(axis + 1, 1);
    let mut other = ty.shape.clone();
    other.insert(axis, 1);
    let (a, b) = (n.reshape(x, &one)?, n.reshape(x, &other)?);
    let before = n.binary(if largest { "greater" } else { "less" }, b, a)?;
    let equal = n.binary("equal", b, a)?;
    let (i, j) = (positions(n, rank + 1, axis, dim), positions(n, rank + 1, axis + 1, dim));
    let earlier = n.binary("less", j, i)?;
    let tie = n.binary("and", equal, earlier)?;
    let before = n.binary("or", before, tie)?;
    let before = n.cast(before, DType::I64)?;
    let order = reduce(n, "sum", before, axis + 1)?;
    let order = n.reshape(order, &ty.shape)?;
    let at = positions(n, rank, axis, dim);
    let zero = n.add_const(DType::I64, &[], &[0i64]);
    let mut found = Vec::new();
    for place in 0..k as i64 {
        let place = n.add_const(DType::I64, &[], &[place]);
        let here = n.binary("equal", order, place)?;
        let here = n.emit(Select {}, &[here, at, zero])?;
        found.push(Some(reduce(n, "sum", here, axis)?));
    }
    let index = match found.is_empty() {
        false => n.emit_all(Concat { axis }, &found)?[0],
        true => {
            let mut shape = ty.shape.clone();
            shape[axis] = 0;
            n.add_const::<i64>(DType::I64, &shape, &[])
        }
    };
    let values = super::index::gather_elements(n, x, index, axis)?;
    Ok(vec![values, index])
}
