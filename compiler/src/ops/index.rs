//! Reading and writing at positions: ONNX GatherElements (versions 11 to 13), GatherND (11 to 13), ScatterElements (11 to 18),
//! ScatterND (11 to 18), Scatter (9 to 11), OneHot (9 to 11), Compress (9 to 11), NonZero (9 to 13) and ReverseSequence (10).
//!
//! All become a [`Gather`] of a flat tensor. A scatter to positions that are known when compiling gathers from the data and the
//! updates behind each other; to other positions it adds the updates up with [`GatherGrad`].

use super::{Concat, Gather, GatherGrad, Select, Slice};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{ValueId, strides};
use crate::limits::TABLE;
use sara_kernels::DType;

/// Flat positions, one for each of some elements.
struct Flat {
    positions: ValueId,
    shape: Vec<usize>,
}

/// Positions `index` as numbers from 0 on, where those below 0 count from the end.
fn from_start(n: &mut OnnxNode<'_, '_>, index: ValueId, dim: usize) -> Result<ValueId> {
    let index = n.cast(index, DType::I64)?;
    if let Some(position) = n
        .graph()
        .constant::<i64>(index)
        .and_then(|all| all.into_iter().find(|p| !(-(dim as i64)..dim as i64).contains(p)))
    {
        return Err(n.fail(format!("index {position} is outside a dimension of {dim}")));
    }
    let (zero, size) = (n.add_const(DType::I64, &[], &[0i64]), n.add_const(DType::I64, &[], &[dim as i64]));
    let negative = n.binary("less", index, zero)?;
    let wrapped = n.binary("add", index, size)?;
    n.emit(Select {}, &[negative, wrapped, index])
}

/// Flat positions of the elements that `index` picks along `axis`.
fn along_axis(n: &mut OnnxNode<'_, '_>, shape: &[usize], index: ValueId, axis: usize) -> Result<Flat> {
    let picked = n.ty(index).shape.clone();
    let fits = picked.len() == shape.len() && (0..shape.len()).all(|d| d == axis || picked[d] <= shape[d]);
    let len = product(n, &picked)?;
    if !fits {
        return Err(n.fail(format!("indices of shape {picked:?} do not fit {shape:?} along axis {axis}")));
    }
    let index = from_start(n, index, shape[axis])?;
    let by = strides(shape);
    let own = strides(&picked);
    let rest: Vec<i64> = (0..len as i64)
        .map(|i| {
            let at = |d: usize| i / own[d].max(1) % picked[d].max(1) as i64;
            (0..shape.len()).filter(|d| *d != axis).map(|d| at(d) * by[d]).sum()
        })
        .collect();
    let stride = n.add_const(DType::I64, &[], &[by[axis]]);
    let rest = n.add_const(DType::I64, &picked, &rest);
    let scaled = n.binary("mul", index, stride)?;
    let positions = n.binary("add", scaled, rest)?;
    Ok(Flat { positions, shape: picked })
}

/// Flat positions of the slices that the rows of `index` name, after `batch` dimensions in common, and those of all their elements.
fn by_rows(n: &mut OnnxNode<'_, '_>, shape: &[usize], index: ValueId, batch: usize) -> Result<Flat> {
    let rows = n.ty(index).shape.clone();
    let depth = rows.last().copied().unwrap_or(0);
    let common = rows.len() > batch && rows[..batch] == shape[..batch.min(shape.len())];
    if depth == 0 || !common || batch + depth > shape.len() {
        return Err(n.fail(format!("indices of shape {rows:?} do not fit {shape:?} with {batch} batch dimensions")));
    }
    let by = strides(shape);
    let outer = &rows[..rows.len() - 1];
    let count = product(n, outer)?;
    let slice = &shape[batch + depth..];
    let inner = product(n, slice)?;
    product(n, &[count, inner])?;
    let flat = n.reshape(index, &[count, depth])?;
    let each = count / product(n, &shape[..batch])?.max(1);
    let start: Vec<i64> = (0..count)
        .map(|i| {
            let sample = (i / each.max(1)) as i64;
            let size: usize = shape[batch..].iter().product();
            sample * size as i64
        })
        .collect();
    let mut positions = n.add_const(DType::I64, &[count, 1], &start);
    for d in 0..depth {
        let column = part(n, flat, [0, d], [count, 1])?;
        let column = from_start(n, column, shape[batch + d])?;
        let stride = n.add_const(DType::I64, &[], &[by[batch + d]]);
        let scaled = n.binary("mul", column, stride)?;
        positions = n.binary("add", positions, scaled)?;
    }
    let within: Vec<i64> = (0..inner as i64).collect();
    let within = n.add_const(DType::I64, &[1, inner], &within);
    let positions = n.binary("add", positions, within)?;
    let shape = [outer, slice].concat();
    let positions = n.reshape(positions, &shape)?;
    Ok(Flat { positions, shape })
}

/// Number of elements of a table that is made here.
fn product(n: &OnnxNode<'_, '_>, shape: &[usize]) -> Result<usize> {
    let len = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    len.filter(|len| *len <= TABLE)
        .ok_or_else(|| n.fail(format!("a table of positions of shape {shape:?} is larger than {TABLE} entries")))
}

/// A part of a matrix.
fn part(n: &mut OnnxNode<'_, '_>, x: ValueId, from: [usize; 2], sizes: [usize; 2]) -> Result<ValueId> {
    let starts = from.map(|s| s as i64).to_vec();
    n.emit(Slice { starts, steps: vec![1, 1], sizes: sizes.to_vec() }, &[x])
}

fn pick(n: &mut OnnxNode<'_, '_>, x: ValueId, flat: &Flat) -> Result<ValueId> {
    let len = n.ty(x).len();
    let x = n.reshape(x, &[len])?;
    let positions = n.reshape(flat.positions, &flat.shape)?;
    n.emit(Gather { axis: 0 }, &[x, positions])
}

/// ONNX GatherElements.
pub(super) fn import_gather_elements(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, index) = (n.input(0)?, n.input(1)?);
    let shape = n.ty(x).shape.clone();
    let axis = n.int("axis", 0)?;
    let axis = n.axis_of(axis, shape.len())?;
    gather_elements(n, x, index, axis).map(|y| vec![y])
}

/// `x` at the positions `index` along `axis` and at their own along the others.
pub(super) fn gather_elements(n: &mut OnnxNode<'_, '_>, x: ValueId, index: ValueId, axis: usize) -> Result<ValueId> {
    let shape = n.ty(x).shape.clone();
    let flat = along_axis(n, &shape, index, axis)?;
    pick(n, x, &flat)
}

/// ONNX GatherND.
pub(super) fn import_gather_nd(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, index) = (n.input(0)?, n.input(1)?);
    let shape = n.ty(x).shape.clone();
    let batch = n.int("batch_dims", 0)?;
    let batch = usize::try_from(batch).map_err(|_| n.fail("batch_dims is negative"))?;
    let flat = by_rows(n, &shape, index, batch)?;
    pick(n, x, &flat).map(|y| vec![y])
}

/// ONNX ScatterElements and Scatter.
pub(super) fn import_scatter_elements(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, index, updates) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let shape = n.ty(x).shape.clone();
    let axis = n.int("axis", 0)?;
    let axis = n.axis_of(axis, shape.len())?;
    let flat = along_axis(n, &shape, index, axis)?;
    scatter(n, x, &flat, updates)
}

/// ONNX ScatterND.
pub(super) fn import_scatter_nd(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, index, updates) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let shape = n.ty(x).shape.clone();
    let flat = by_rows(n, &shape, index, 0)?;
    scatter(n, x, &flat, updates)
}

/// `x` with `updates` at the positions, joined as the attribute `reduction` says.
fn scatter(n: &mut OnnxNode<'_, '_>, x: ValueId, flat: &Flat, updates: ValueId) -> Result<Vec<ValueId>> {
    let ty = n.ty(x).clone();
    let reduction = n.text("reduction", "none")?;
    if n.ty(updates).shape != flat.shape || n.ty(updates).dtype != ty.dtype {
        let given = n.ty(updates).clone();
        return Err(n.fail(format!("updates {given} do not fit {:?} indices into {ty}", flat.shape)));
    }
    product(n, &ty.shape)?;
    let (len, count) = (ty.len(), n.ty(updates).len());
    let data = n.reshape(x, &[len])?;
    let updates = n.reshape(updates, &[count])?;
    let positions = n.reshape(flat.positions, &[count])?;
    let y = match n.graph().constant::<i64>(positions) {
        Some(known) => scatter_known(n, data, &known, updates, &reduction)?,
        None => scatter_added(n, data, positions, updates, &reduction)?,
    };
    n.reshape(y, &ty.shape).map(|y| vec![y])
}

fn scatter_known(
    n: &mut OnnxNode<'_, '_>,
    data: ValueId,
    positions: &[i64],
    updates: ValueId,
    reduction: &str,
) -> Result<ValueId> {
    let op = match reduction {
        "none" => "",
        "add" | "mul" | "max" | "min" => reduction,
        other => return Err(n.fail(format!("reduction `{other}` is not known"))),
    };
    let len = n.ty(data).len();
    // Updates of one position are joined in their order: the first of each, then the second of each, and so on.
    let mut left: Vec<(usize, i64)> = positions.iter().copied().enumerate().collect();
    let mut y = data;
    while !left.is_empty() {
        let mut seen = vec![false; len];
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for (k, p) in left {
            let first = !std::mem::replace(&mut seen[p as usize], true);
            if first { now.push((k, p)) } else { later.push((k, p)) }
        }
        let rows: Vec<i64> = now.iter().map(|r| r.0 as i64).collect();
        let at: Vec<i64> = now.iter().map(|r| r.1).collect();
        let rows = n.add_const(DType::I64, &[now.len()], &rows);
        let mut new = n.emit(Gather { axis: 0 }, &[updates, rows])?;
        if !op.is_empty() {
            let at = n.add_const(DType::I64, &[now.len()], &at);
            let old = n.emit(Gather { axis: 0 }, &[y, at])?;
            new = n.binary(op, old, new)?;
        }
        let mut source: Vec<i64> = (0..len as i64).collect();
        for (k, p) in at.iter().enumerate() {
            source[*p as usize] = (len + k) as i64;
        }
        let both = n.emit(Concat { axis: 0 }, &[y, new])?;
        let source = n.add_const(DType::I64, &[len], &source);
        y = n.emit(Gather { axis: 0 }, &[both, source])?;
        left = later;
    }
    Ok(y)
}

/// Positions that depend on the data must differ from each other unless the updates are added.
fn scatter_added(
    n: &mut OnnxNode<'_, '_>,
    data: ValueId,
    positions: ValueId,
    updates: ValueId,
    reduction: &str,
) -> Result<ValueId> {
    let ty = n.ty(data).clone();
    if !ty.dtype.is_float() {
        return Err(n.fail(format!("indices that depend on the data cannot be written to in {ty}")));
    }
    let sum = n.emit(GatherGrad { axis: 0, shape: ty.shape.clone() }, &[updates, positions])?;
    match reduction {
        "add" => n.binary("add", data, sum),
        "none" => {
            let one = n.scalar_like(data, 1.0)?;
            let count = n.ty(positions).len();
            let ones = n.expand(one, &[count])?;
            let marks = n.emit(GatherGrad { axis: 0, shape: ty.shape }, &[ones, positions])?;
            let zero = n.scalar_like(data, 0.0)?;
            let written = n.binary("greater", marks, zero)?;
            n.emit(Select {}, &[written, sum, data])
        }
        other => Err(n.fail(format!("reduction `{other}` needs indices that are known when compiling"))),
    }
}

/// ONNX OneHot.
pub(super) fn import_one_hot(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (index, values) = (n.input(0)?, n.input(2)?);
    let depth = n.const_scalar(1)?;
    if !(depth >= 1.0 && depth <= TABLE as f64) {
        return Err(n.fail(format!("a depth of {depth} is not supported")));
    }
    let depth = depth as usize;
    let mut shape = n.ty(index).shape.clone();
    let axis = n.int("axis", -1)?;
    let axis = n.axis_of(axis, shape.len() + 1)?;
    shape.insert(axis, 1);
    let index = n.cast(index, DType::I64)?;
    let (zero, size) = (n.add_const(DType::I64, &[], &[0i64]), n.add_const(DType::I64, &[], &[depth as i64]));
    let negative = n.binary("less", index, zero)?;
    let wrapped = n.binary("add", index, size)?;
    let index = n.emit(Select {}, &[negative, wrapped, index])?;
    let index = n.reshape(index, &shape)?;
    let mut along = vec![1; shape.len()];
    along[axis] = depth;
    let classes: Vec<i64> = (0..depth as i64).collect();
    let classes = n.add_const(DType::I64, &along, &classes);
    let hot = n.binary("equal", index, classes)?;
    let values = n.reshape(values, &[2, 1])?;
    let (off, on) = (part(n, values, [0, 0], [1, 1])?, part(n, values, [1, 0], [1, 1])?);
    let (off, on) = (n.reshape(off, &[])?, n.reshape(on, &[])?);
    n.emit(Select {}, &[hot, on, off]).map(|y| vec![y])
}

/// ONNX Compress, with a condition that is known when compiling.
pub(super) fn import_compress(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let mut x = n.input(0)?;
    let condition = n.input(1)?;
    let kept = n.graph().constant::<u8>(condition);
    let kept = kept.ok_or_else(|| n.fail("its condition depends on the data, but must be known when compiling"))?;
    let axis = match n.has("axis") {
        true => n.int("axis", 0)?,
        false => {
            let len = n.ty(x).len();
            x = n.reshape(x, &[len])?;
            0
        }
    };
    let shape = n.ty(x).shape.clone();
    let axis = n.axis_of(axis, shape.len())?;
    let index: Vec<i64> = (0i64..).zip(&kept).filter(|(_, k)| **k != 0).map(|(i, _)| i).collect();
    if index.last().is_some_and(|i| *i >= shape[axis] as i64) {
        return Err(n.fail(format!("a condition of {} does not fit dimension {axis} of {shape:?}", kept.len())));
    }
    let index = n.add_const(DType::I64, &[index.len()], &index);
    n.emit(Gather { axis }, &[x, index]).map(|y| vec![y])
}

/// ONNX NonZero of a tensor that is known when compiling.
pub(super) fn import_non_zero(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let truth = n.cast(x, DType::Bool)?;
    let known = n.graph().constant::<u8>(truth);
    let known = known.ok_or_else(|| n.fail("its operand depends on the data, but must be known when compiling"))?;
    let found: Vec<i64> = (0i64..).zip(&known).filter(|(_, v)| **v != 0).map(|(i, _)| i).collect();
    let own = strides(&shape);
    let rows = own.iter().zip(&shape);
    let index: Vec<i64> = rows.flat_map(|(by, dim)| found.iter().map(move |i| i / by % *dim as i64)).collect();
    Ok(vec![n.add_const(DType::I64, &[shape.len(), found.len()], &index)])
}

/// ONNX ReverseSequence, with lengths that are known when compiling.
pub(super) fn import_reverse_sequence(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let (batch, time) = (n.int("batch_axis", 1)?, n.int("time_axis", 0)?);
    let (batch, time) = (n.axis_of(batch, shape.len())?, n.axis_of(time, shape.len())?);
    let lengths = n.const_sizes(1)?;
    if batch == time || lengths.len() != shape[batch] || lengths.iter().any(|l| *l > shape[time]) {
        return Err(n.fail(format!("lengths {lengths:?} do not fit {shape:?}")));
    }
    let len = product(n, &shape)?;
    let by = strides(&shape);
    let index: Vec<i64> = (0..len as i64)
        .map(|i| {
            let at = |d: usize| i / by[d] % shape[d] as i64;
            let length = lengths[at(batch) as usize] as i64;
            let to = if at(time) < length { length - 1 - at(time) } else { at(time) };
            i + (to - at(time)) * by[time]
        })
        .collect();
    let positions = n.add_const(DType::I64, &shape, &index);
    pick(n, x, &Flat { positions, shape }).map(|y| vec![y])
}
