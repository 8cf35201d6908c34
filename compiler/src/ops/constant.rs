//! Operators whose results are known once shapes are bound: ONNX Constant (1 to 25), ConstantOfShape (9 to 25), Shape (1 to
//! 25), Size (1 to 25) and Range (11).

use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::ValueId;
use crate::limits::TABLE;
use sara_kernels::DType;

/// ONNX Constant.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    if let Some(value) = n.tensor("value")? {
        return Ok(vec![value]);
    }
    if let Some(values) = n.ints("value_ints")? {
        return Ok(vec![n.add_const(DType::I64, &[values.len()], &values)]);
    }
    if let Some(values) = n.floats("value_floats")? {
        return Ok(vec![n.add_const(DType::F32, &[values.len()], &values)]);
    }
    if n.has("value_int") {
        let value = n.int("value_int", 0)?;
        return Ok(vec![n.add_const(DType::I64, &[], &[value])]);
    }
    if n.has("value_float") {
        let value = n.float("value_float", 0.0)?;
        return Ok(vec![n.add_const(DType::F32, &[], &[value as f32])]);
    }
    Err(n.fail("holds neither a dense tensor nor numbers"))
}

/// ONNX ConstantOfShape.
pub(super) fn import_of_shape(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let shape = n.const_sizes(0)?;
    let value = match n.tensor("value")? {
        Some(value) => n.reshape(value, &[])?,
        None => n.add_const(DType::F32, &[], &[0f32]),
    };
    n.expand(value, &shape).map(|y| vec![y])
}

/// ONNX Shape.
pub(super) fn import_shape(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape: Vec<i64> = n.logical_shape(x).into_iter().map(|d| d as i64).collect();
    let rank = shape.len() as i64;
    let bound = |p: i64| (if p < 0 { p + rank } else { p }).clamp(0, rank) as usize;
    let start = bound(n.int("start", 0)?);
    let end = bound(n.int("end", rank)?).max(start);
    Ok(vec![n.add_const(DType::I64, &[end - start], &shape[start..end])])
}

/// ONNX Size.
pub(super) fn import_size(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let len = n.ty(x).len() as i64;
    Ok(vec![n.add_const(DType::I64, &[], &[len])])
}

/// ONNX Range.
pub(super) fn import_range(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let start = n.input(0)?;
    let dtype = n.ty(start).dtype;
    let bounds = [n.const_scalar(0)?, n.const_scalar(1)?, n.const_scalar(2)?];
    let [start, limit, delta] = bounds;
    let count = ((limit - start) / delta).ceil().max(0.0);
    if !count.is_finite() || count as usize > TABLE {
        return Err(n.fail(format!("a range from {start} to {limit} by {delta} cannot be built")));
    }
    let values: Vec<f64> = (0..count as usize).map(|i| start + i as f64 * delta).collect();
    let range = n.add_const(DType::F64, &[values.len()], &values);
    n.cast(range, dtype).map(|y| vec![y])
}
