//! Normalisations that are written with primitives: ONNX LpNormalization (versions 1 to 22), LRN (1 to 13) and
//! MeanVarianceNormalization (9 to 13).

use super::pool::{power, root};
use super::{Embed, Reduce, Select, Slice};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::ValueId;

/// ONNX LpNormalization: `x` over its `p`-norm along an axis; nothing where the norm is 0.
pub(super) fn import_lp(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let rank = n.ty(x).rank();
    let axis = n.int("axis", -1)?;
    let axis = n.axis_of(axis, rank)?;
    let p = n.int("p", 2)? as f64;
    let power = power(n, x, p)?;
    let sum = n.emit(Reduce { op: "sum".into(), axes: vec![axis], keepdims: true }, &[power])?;
    let (zero, one) = (n.scalar_like(x, 0.0)?, n.scalar_like(x, 1.0)?);
    let none = n.binary("equal", sum, zero)?;
    let sum = n.emit(Select {}, &[none, one, sum])?;
    let norm = root(n, sum, p)?;
    n.binary("div", x, norm).map(|y| vec![y])
}

/// ONNX LRN: `x / (bias + alpha / size * s)^beta` with `s` the sum of squares over `size` channels around each.
pub(super) fn import_lrn(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let (alpha, beta) = (n.float("alpha", 1e-4)?, n.float("beta", 0.75)?);
    let (bias, size) = (n.float("bias", 1.0)?, n.int("size", 0)?);
    if shape.len() < 2 || !(1..=256).contains(&size) {
        return Err(n.fail(format!("a size of {size} channels is not supported for {shape:?}")));
    }
    let before = (size - 1) / 2;
    let square = n.binary("mul", x, x)?;
    let (zeros, ones) = (vec![0; shape.len()], vec![1; shape.len()]);
    let mut embed = Embed { shape: shape.clone(), starts: zeros.clone(), steps: ones.clone(), value: 0.0 };
    embed.shape[1] += size as usize - 1;
    embed.starts[1] = before;
    let padded = n.emit(embed, &[square])?;
    let mut sum = None;
    for k in 0..size {
        let mut slice = Slice { starts: zeros.clone(), steps: ones.clone(), sizes: shape.clone() };
        slice.starts[1] = k;
        let part = n.emit(slice, &[padded])?;
        sum = Some(match sum {
            None => part,
            Some(sum) => n.binary("add", sum, part)?,
        });
    }
    let sum = sum.unwrap_or(square);
    let share = n.scalar_like(x, alpha / size as f64)?;
    let scaled = n.binary("mul", sum, share)?;
    let bias = n.scalar_like(x, bias)?;
    let base = n.binary("add", scaled, bias)?;
    let beta = n.scalar_like(x, beta)?;
    let divisor = n.binary("pow", base, beta)?;
    n.binary("div", x, divisor).map(|y| vec![y])
}

/// ONNX MeanVarianceNormalization: `(x - mean) / (deviation + 1e-9)` over some axes.
pub(super) fn import_mean_variance(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let rank = n.ty(x).rank();
    let axes = n.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let mut axes: Vec<usize> = axes.into_iter().map(|a| n.axis_of(a, rank)).collect::<Result<_>>()?;
    axes.sort_unstable();
    axes.dedup();
    let mean = Reduce { op: "mean".into(), axes, keepdims: true };
    let middle = n.emit(mean.clone(), &[x])?;
    let centred = n.binary("sub", x, middle)?;
    let square = n.binary("mul", centred, centred)?;
    let variance = n.emit(mean, &[square])?;
    let deviation = n.unary("sqrt", variance)?;
    let epsilon = n.scalar_like(x, 1e-9)?;
    let divisor = n.binary("add", deviation, epsilon)?;
    n.binary("div", centred, divisor).map(|y| vec![y])
}
