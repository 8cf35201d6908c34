//! Slice: a strided part of a tensor (ONNX Slice, versions 1 to 13, and Split, versions 2 to 18).

use super::{Case, Embed, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId, strides};
use crate::lower::Lower;

operator! {
    /// `y[i] = x[starts + i * steps]` for `i` in `sizes`.
    Slice {
        /// First position along each axis.
        starts: Vec<i64>,
        /// Distance between positions along each axis; may be negative.
        steps: Vec<i64>,
        /// Shape of the result.
        sizes: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        check(&self.starts, &self.steps, &self.sizes, &x.shape)?;
        Ok(vec![x.with_shape(&self.sizes)])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        let shape = g.ty(g.input(0)).shape;
        let dy = g.dy();
        let embed = Embed { shape, starts: self.starts.clone(), steps: self.steps.clone(), value: 0.0 };
        g.emit(embed, &[dy]).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let own = strides(&l.input_type(0).shape);
        let offset: i64 = self.starts.iter().zip(&own).map(|(a, b)| a * b).sum();
        let stepped: Vec<i64> = self.steps.iter().zip(&own).map(|(a, b)| a * b).collect();
        let (x, y) = (l.input(0), l.output(0));
        l.copy(x, (offset, &stepped), y, (0, &strides(&self.sizes)), &self.sizes);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Slice { starts: vec![0, 1], steps: vec![1, 1], sizes: vec![2, 2] }, &["f32[2,4]"]),
            Case::new(Slice { starts: vec![3, 0], steps: vec![-2, 1], sizes: vec![2, 3] }, &["f32[4,3]"]),
            Case::new(Slice { starts: vec![1], steps: vec![2], sizes: vec![2] }, &["i64[5]"]),
            Case::new(Slice { starts: vec![0, 2], steps: vec![1, 1], sizes: vec![2, 0] }, &["f32[2,4]"]),
        ]
    }
}

/// Whether a strided box lies inside `shape`.
pub(super) fn check(starts: &[i64], steps: &[i64], sizes: &[usize], shape: &[usize]) -> Result<(), String> {
    if [starts.len(), steps.len(), sizes.len()] != [shape.len(); 3] {
        return Err(format!("starts, steps and sizes must have {} entries", shape.len()));
    }
    for i in 0..shape.len() {
        let last = starts[i] + steps[i] * (sizes[i] as i64 - 1);
        let inside = |p: i64| (0..shape[i] as i64).contains(&p);
        if sizes[i] > 0 && !(inside(starts[i]) && inside(last)) {
            return Err(format!("positions {}..={last} leave dimension {i} of {shape:?}", starts[i]));
        }
    }
    Ok(())
}

/// ONNX Slice.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let (begins, ends, axes, by) = if n.opset() < 10 {
        let begins = n.ints("starts")?.unwrap_or_default();
        let ends = n.ints("ends")?.unwrap_or_default();
        (begins, ends, n.ints("axes")?, None)
    } else {
        (n.const_ints(1)?, n.const_ints(2)?, n.optional_ints(3)?, n.optional_ints(4)?)
    };
    let axes = axes.unwrap_or_else(|| (0..begins.len() as i64).collect());
    let by = by.unwrap_or_else(|| vec![1; begins.len()]);
    if [ends.len(), axes.len(), by.len()] != [begins.len(); 3] {
        return Err(n.fail("starts, ends, axes and steps have different lengths"));
    }
    let mut slice = Slice { starts: vec![0; shape.len()], steps: vec![1; shape.len()], sizes: shape.clone() };
    for (k, &axis) in axes.iter().enumerate() {
        let axis = n.axis_of(axis, shape.len())?;
        let (dim, step) = (shape[axis] as i64, by[k]);
        if step == 0 {
            return Err(n.fail("a step is 0"));
        }
        let absolute = |p: i64| if p < 0 { p.saturating_add(dim) } else { p };
        let (low, high) = if step > 0 { (0, dim) } else { (-1, dim - 1) };
        // A start before the first element means the first, whichever way the slice runs.
        let begin =
            absolute(begins[k]).clamp(if step > 0 { 0 } else { 0.min(dim - 1) }, if step > 0 { dim } else { dim - 1 });
        let end = absolute(ends[k]).clamp(low, high);
        let span = if step > 0 { end - begin } else { begin - end };
        let count = if span <= 0 { 0 } else { (span - 1) / step.saturating_abs() + 1 };
        slice.starts[axis] = begin;
        slice.steps[axis] = step;
        slice.sizes[axis] = count as usize;
    }
    if slice.sizes == shape && slice.steps.iter().all(|s| *s == 1) {
        return Ok(vec![x]);
    }
    n.emit(slice, &[x]).map(|y| vec![y])
}

/// ONNX Split.
pub(super) fn import_split(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let axis = n.int("axis", 0)?;
    let axis = n.axis_of(axis, shape.len())?;
    let parts = n.outputs().max(1);
    n.int("num_outputs", parts as i64)?;
    let lengths = if n.opset() < 13 { n.ints("split")? } else { n.optional_ints(1)? };
    let lengths: Vec<usize> = match lengths {
        Some(lengths) => lengths.into_iter().map(|l| l.max(0) as usize).collect(),
        None => {
            let each = shape[axis].div_ceil(parts);
            (0..parts).map(|i| each.min(shape[axis].saturating_sub(i * each))).collect()
        }
    };
    if lengths.len() != parts || lengths.iter().fold(0, |n: usize, l| n.saturating_add(*l)) != shape[axis] {
        return Err(n.fail(format!("{lengths:?} do not divide dimension {axis} of {shape:?} into {parts}")));
    }
    let mut at = 0;
    let mut results = Vec::with_capacity(parts);
    for length in lengths {
        let mut slice = Slice { starts: vec![0; shape.len()], steps: vec![1; shape.len()], sizes: shape.clone() };
        slice.starts[axis] = at as i64;
        slice.sizes[axis] = length;
        at += length;
        results.push(n.emit(slice, &[x])?);
    }
    Ok(results)
}
