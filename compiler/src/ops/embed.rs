//! Embed: puts a tensor into a larger one that is constant elsewhere. It is the gradient of a slice, and ONNX Pad (versions 2
//! to 25) with mode `constant`; the other modes are a [`super::Resample`] with one tap, or a
//! [`super::Gather`] of what is not `f32`.

use super::{Case, Gather, Resample, Slice, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId, strides};
use crate::limits::TABLE;
use crate::lower::Lower;
use sara_kernels::{DType, Scalar};

operator! {
    /// `y[starts + i * steps] = x[i]`, and `value` elsewhere.
    Embed {
        /// Shape of the result.
        shape: Vec<usize>,
        /// Position of the first element along each axis.
        starts: Vec<i64>,
        /// Distance between elements along each axis; may be negative.
        steps: Vec<i64>,
        /// What the other elements are.
        value: f64,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        super::slice::check(&self.starts, &self.steps, &x.shape, &self.shape)?;
        Ok(vec![x.with_shape(&self.shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        let sizes = g.ty(g.input(0)).shape;
        let dy = g.dy();
        g.emit(Slice { starts: self.starts.clone(), steps: self.steps.clone(), sizes }, &[dy]).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let own = strides(&self.shape);
        let offset: i64 = self.starts.iter().zip(&own).map(|(a, b)| a * b).sum();
        let stepped: Vec<i64> = self.steps.iter().zip(&own).map(|(a, b)| a * b).collect();
        let from = l.input_type(0).shape.clone();
        let (x, y) = (l.input(0), l.output(0));
        l.launch("fill", &[Some(y)], vec![Scalar::Float(self.value)]);
        l.copy(x, (0, &strides(&from)), y, (offset, &stepped), &from);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Embed { shape: vec![4, 3], starts: vec![1, 0], steps: vec![1, 2], value: 0.0 }, &["f32[2,2]"]),
            Case::new(Embed { shape: vec![5], starts: vec![4], steps: vec![-2], value: 1.5 }, &["f32[3]"]),
        ]
    }
}

/// ONNX Pad.
pub(super) fn import_pad(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let (pads, value, axes) = if n.opset() < 11 {
        (n.ints("pads")?.unwrap_or_default(), n.float("value", 0.0)?, None)
    } else {
        (n.const_ints(1)?, n.optional_scalar(2)?.unwrap_or(0.0), n.optional_ints(3)?)
    };
    let axes = axes.unwrap_or_else(|| (0..shape.len() as i64).collect());
    if pads.len() != 2 * axes.len() || pads.iter().any(|p| p.unsigned_abs() >= 1 << 40) {
        return Err(n.fail(format!("pads {pads:?} do not fit {} axes", axes.len())));
    }
    let mut around = vec![(0i64, 0i64); shape.len()];
    for (k, axis) in axes.iter().enumerate() {
        around[n.axis_of(*axis, shape.len())?] = (pads[k], pads[k + axes.len()]);
    }
    let mode = n.text("mode", "constant")?;
    if mode != "constant" {
        return reach(n, x, &around, &mode).map(|y| vec![y]);
    }
    let mut slice = Slice { starts: vec![0; shape.len()], steps: vec![1; shape.len()], sizes: shape.clone() };
    let mut embed = Embed { shape: shape.clone(), starts: vec![0; shape.len()], steps: vec![1; shape.len()], value };
    for (i, &(before, after)) in around.iter().enumerate() {
        slice.starts[i] = (-before).max(0);
        let kept = shape[i] as i64 + before.min(0) + after.min(0);
        let full = kept + before.max(0) + after.max(0);
        if kept < 0 || full < 0 {
            return Err(n.fail(format!("pads ({before}, {after}) take more than dimension {i} of {shape:?} has")));
        }
        slice.sizes[i] = kept as usize;
        embed.starts[i] = before.max(0);
        embed.shape[i] = full as usize;
    }
    let mut y = x;
    if slice.sizes != shape {
        y = n.emit(slice, &[y])?;
    }
    if embed.shape != n.ty(y).shape {
        y = n.emit(embed, &[y])?;
    }
    Ok(vec![y])
}

/// Padding that repeats elements of the tensor itself, one axis after the other.
fn reach(n: &mut OnnxNode<'_, '_>, x: ValueId, around: &[(i64, i64)], mode: &str) -> Result<ValueId> {
    let mut y = x;
    for (axis, &(before, after)) in around.iter().enumerate() {
        if (before, after) == (0, 0) {
            continue;
        }
        let dim = n.ty(y).shape[axis] as i64;
        if dim + before + after > TABLE as i64 {
            return Err(n.fail(format!("pads ({before}, {after}) are too large for mode `{mode}`")));
        }
        let position = |p: i64| match mode {
            "edge" => Some(p.clamp(0, dim - 1)),
            "wrap" => Some(p.rem_euclid(dim)),
            "reflect" if dim == 1 => Some(0),
            "reflect" => {
                let period = 2 * (dim - 1);
                let q = p.rem_euclid(period);
                Some(if q < dim { q } else { period - q })
            }
            _ => None,
        };
        let index: Option<Vec<i64>> =
            (-before..dim + after).map(|p| if dim == 0 { None } else { position(p) }).collect();
        let index = index.ok_or_else(|| n.fail(format!("mode `{mode}` cannot pad dimension {axis} of {dim}")))?;
        if n.ty(y).dtype != DType::F32 {
            let index = n.add_const(DType::I64, &[index.len()], &index);
            y = n.emit(Gather { axis }, &[y, index])?;
            continue;
        }
        let taps: Vec<i32> = index.iter().map(|p| *p as i32).collect();
        let taps = n.int_table(&[index.len(), 1], &taps);
        let weights = n.float_table(&[index.len(), 1], &vec![1.0; index.len()]);
        y = n.emit(Resample { axis }, &[y, taps, weights])?;
    }
    Ok(y)
}
