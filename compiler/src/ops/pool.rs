//! Pooling by the largest element and by norms: ONNX MaxPool (versions 1 to 22), LpPool (11 to 22), GlobalMaxPool (1 to 22) and
//! GlobalLpPool (2 to 22). A window becomes as many strided slices as it has places, which are joined elementwise.

use super::{Embed, Reduce, Select, Slice};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{ValueId, strides};
use crate::limits::WINDOW;
use sara_kernels::DType;

/// How windows lie along one axis.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) begin: usize,
    /// Number of windows.
    pub(super) count: usize,
    /// Elements with padding at both ends.
    pub(super) padded: usize,
}

/// The windows along each spatial axis, from the attributes that all pooling operators share.
pub(super) fn windows(n: &mut OnnxNode<'_, '_>, shape: &[usize]) -> Result<Vec<Window>> {
    let kernel = n.sizes("kernel_shape")?.unwrap_or_default();
    let spatial = kernel.len();
    let strides = n.sizes("strides")?.unwrap_or_else(|| vec![1; spatial]);
    let dilations = n.sizes("dilations")?.unwrap_or_else(|| vec![1; spatial]);
    let pads = n.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * spatial]);
    let ceil = n.int("ceil_mode", 0)? != 0;
    let auto = n.text("auto_pad", "NOTSET")?;
    let fits =
        shape.len() == spatial + 2 && [strides.len(), dilations.len()] == [spatial; 2] && pads.len() == 2 * spatial;
    if !fits || strides.contains(&0) || kernel.contains(&0) || dilations.contains(&0) {
        return Err(n.fail(format!("kernel {kernel:?} and the other attributes do not fit input {shape:?}")));
    }
    let mut windows = Vec::new();
    for i in 0..spatial {
        let (from, kernel, stride, dilation) = (shape[2 + i], kernel[i], strides[i], dilations[i]);
        let reach = (kernel - 1).saturating_mul(dilation).saturating_add(1);
        let (mut begin, mut end) = (pads[i], pads[spatial + i]);
        if auto != "NOTSET" {
            let out = from.div_ceil(stride);
            let wanted = (out.max(1) - 1).saturating_mul(stride).saturating_add(reach);
            let total = if auto == "VALID" { 0 } else { wanted.saturating_sub(from) };
            (begin, end) =
                if auto == "SAME_LOWER" { (total - total / 2, total / 2) } else { (total / 2, total - total / 2) };
        }
        let padded = from + begin + end;
        let room = padded.checked_sub(reach).ok_or_else(|| n.fail("the kernel is larger than the padded input"))?;
        let mut count = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
        // A window must not start in the padding at the end.
        if ceil && (count - 1) * stride >= from + begin {
            count -= 1;
        }
        windows.push(Window { kernel, stride, dilation, begin, count, padded });
    }
    Ok(windows)
}

/// `x` with room for all windows, filled with `value`, and for each place of a window where its slice starts.
fn places(n: &mut OnnxNode<'_, '_>, x: ValueId, windows: &[Window], value: f64) -> Result<(ValueId, Vec<Slice>)> {
    let own = n.ty(x).shape.clone();
    let rank = own.len();
    let (mut shape, mut starts) = (own.clone(), vec![0; rank]);
    let mut slice = Slice { starts: vec![0; rank], steps: vec![1; rank], sizes: own.clone() };
    for (i, w) in windows.iter().enumerate() {
        let last = (w.count - 1) * w.stride + (w.kernel - 1) * w.dilation + 1;
        shape[2 + i] = w.padded.max(last);
        starts[2 + i] = w.begin as i64;
        slice.steps[2 + i] = w.stride as i64;
        slice.sizes[2 + i] = w.count;
    }
    let padded = match shape == own {
        true => x,
        false => n.emit(Embed { shape, starts, steps: vec![1; rank], value }, &[x])?,
    };
    let mut slices = vec![slice];
    for (i, w) in windows.iter().enumerate() {
        let more = |s: &Slice| -> Vec<Slice> {
            let at = |k: usize| {
                let mut s = s.clone();
                s.starts[2 + i] = (k * w.dilation) as i64;
                s
            };
            (0..w.kernel).map(at).collect()
        };
        slices = slices.iter().flat_map(more).collect();
        if slices.len() > WINDOW {
            return Err(n.fail(format!("a window of more than {WINDOW} elements is not supported")));
        }
    }
    Ok((padded, slices))
}

/// ONNX MaxPool.
pub(super) fn import_max(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let ty = n.ty(x).clone();
    let columns = n.int("storage_order", 0)? != 0;
    let windows = windows(n, &ty.shape)?;
    let lowest = if ty.dtype.is_float() { f64::NEG_INFINITY } else { -f64::MAX };
    let (padded, slices) = places(n, x, &windows, lowest)?;
    let index = (n.outputs() > 1).then(|| positions(n, &ty.shape, &windows, columns)).transpose()?;
    let mut best: Option<(ValueId, Option<ValueId>)> = None;
    for slice in slices {
        let here = n.emit(slice.clone(), &[padded])?;
        let at = index.map(|index| n.emit(slice, &[index])).transpose()?;
        best = Some(match best {
            None => (here, at),
            Some((so_far, place)) => {
                let place = match place.zip(at) {
                    None => None,
                    Some((place, at)) => {
                        let larger = n.binary("greater", here, so_far)?;
                        Some(n.emit(Select {}, &[larger, at, place])?)
                    }
                };
                (n.binary("max", so_far, here)?, place)
            }
        });
    }
    let (y, index) = best.ok_or_else(|| n.fail("its windows are empty"))?;
    Ok([Some(y), index].into_iter().flatten().collect())
}

/// Flat positions of all elements, padded as the operand is; spatial axes in row-major or column-major order.
fn positions(n: &mut OnnxNode<'_, '_>, shape: &[usize], windows: &[Window], columns: bool) -> Result<ValueId> {
    let mut by = strides(shape);
    if columns {
        let mut step = 1;
        for d in 2..shape.len() {
            by[d] = step;
            step *= shape[d] as i64;
        }
    }
    let len: usize = shape.iter().product();
    if len > crate::limits::TABLE {
        return Err(n.fail(format!("positions in {shape:?} are too many to make at compile time")));
    }
    let own = strides(shape);
    let place = |i: i64| (0..shape.len()).map(|d| i / own[d] % shape[d] as i64 * by[d]).sum();
    let values: Vec<i64> = (0..len as i64).map(place).collect();
    let index = n.add_const(DType::I64, shape, &values);
    places(n, index, windows, -1.0).map(|p| p.0)
}

/// ONNX LpPool: the `p`-norm of each window.
pub(super) fn import_lp(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let windows = windows(n, &shape)?;
    let p = n.int("p", 2)? as f64;
    let power = power(n, x, p)?;
    let (padded, slices) = places(n, power, &windows, 0.0)?;
    let mut sum: Option<ValueId> = None;
    for slice in slices {
        let here = n.emit(slice, &[padded])?;
        sum = Some(match sum {
            None => here,
            Some(sum) => n.binary("add", sum, here)?,
        });
    }
    let sum = sum.ok_or_else(|| n.fail("its windows are empty"))?;
    root(n, sum, p).map(|y| vec![y])
}

/// ONNX GlobalMaxPool.
pub(super) fn import_global_max(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let axes = (2..n.ty(x).rank()).collect();
    n.emit(Reduce { op: "max".into(), axes, keepdims: true }, &[x]).map(|y| vec![y])
}

/// ONNX GlobalLpPool.
pub(super) fn import_global_lp(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let axes = (2..n.ty(x).rank()).collect();
    let p = n.int("p", 2)? as f64;
    let power = power(n, x, p)?;
    let sum = n.emit(Reduce { op: "sum".into(), axes, keepdims: true }, &[power])?;
    root(n, sum, p).map(|y| vec![y])
}

/// `|x|^p`.
pub(super) fn power(n: &mut OnnxNode<'_, '_>, x: ValueId, p: f64) -> Result<ValueId> {
    if p == 2.0 {
        return n.binary("mul", x, x);
    }
    let size = n.unary("abs", x)?;
    if p == 1.0 {
        return Ok(size);
    }
    let p = n.scalar_like(size, p)?;
    n.binary("pow", size, p)
}

/// `x^(1/p)`.
pub(super) fn root(n: &mut OnnxNode<'_, '_>, x: ValueId, p: f64) -> Result<ValueId> {
    if p == 1.0 {
        return Ok(x);
    }
    if p == 2.0 {
        return n.unary("sqrt", x);
    }
    let p = n.scalar_like(x, 1.0 / p)?;
    n.binary("pow", x, p)
}
