//! Resample: each position along one axis is a weighted sum of positions of the operand. Resizing, average pooling and padding
//! by the tensor's own elements are all of this form, one axis after the other, so one kernel and one gradient serve them.
//!
//! Serves ONNX Resize (versions 10 to 19), Upsample (7 to 10), AveragePool (1 to 22), and Pad with other modes than `constant`.

use super::unary::second_order;
use super::{Case, Data, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::limits::TABLE;
use crate::lower::{Lower, int};
use sara_kernels::{DType, Scalar};

operator! {
    /// `y[o, j, i] = sum_t weight[j, t] * x[o, index[j, t], i]`. Operands: `x`, `index` `i32[size, taps]` (negative: nothing),
    /// `weight` `f32[size, taps]`.
    Resample {
        /// The axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(index), Some(weight)] = inputs else { return Err("takes three operands".into()) };
        let table = index.dtype == DType::I32 && weight.dtype == DType::F32 && index.shape == weight.shape;
        if self.axis >= x.rank() || !x.dtype.is_float() || !table || index.rank() != 2 {
            return Err("takes a float tensor and a table of positions and weights".into());
        }
        let mut shape = x.shape.clone();
        shape[self.axis] = index.shape[0];
        Ok(vec![x.with_shape(&shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        if wrt != 0 {
            return Ok(None);
        }
        let size = g.ty(g.input(0)).shape[self.axis];
        let (dy, index, weight) = (g.dy(), g.input(1), g.input(2));
        g.emit(ResampleGrad { axis: self.axis, size }, &[dy, index, weight]).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let size = l.input_type(0).shape[self.axis];
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), Some(l.output(0))];
        let scalars = extents(l.output_type(0), self.axis, size, l.input_type(1).shape[1]);
        l.launch("resample", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case { data: Data::Signed, ..Case::new(Resample { axis: 1 }, &["f32[2,3,2]", "i32[4,2]", "f32[4,2]"]) }]
    }
}

operator! {
    /// The transpose of [`Resample`]. Operands: `dy`, `index`, `weight`.
    ResampleGrad {
        /// The axis.
        axis: usize,
        /// Dimension of the axis before resampling.
        size: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(dy), Some(_), Some(_)] = inputs else { return Err("takes three operands".into()) };
        let mut shape = dy.shape.clone();
        *shape.get_mut(self.axis).ok_or("the axis is out of range")? = self.size;
        Ok(vec![dy.with_shape(&shape)])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), Some(l.output(0))];
        let scalars = extents(l.input_type(0), self.axis, self.size, l.input_type(1).shape[1]);
        l.launch("resample_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(ResampleGrad { axis: 1, size: 3 }, &["f32[2,4,2]", "i32[4,2]", "f32[4,2]"])]
    }
}

fn extents(y: &Type, axis: usize, n_in: usize, taps: usize) -> Vec<Scalar> {
    let outer: usize = y.shape[..axis].iter().product();
    let inner: usize = y.shape[axis + 1..].iter().product();
    [outer, n_in, y.shape[axis], inner, taps].map(int).to_vec()
}

/// Positions and weights, row by row; all rows have the same number of taps.
struct Table {
    index: Vec<i32>,
    weight: Vec<f32>,
    rows: usize,
}

impl Table {
    fn apply(self, n: &mut OnnxNode<'_, '_>, x: ValueId, axis: usize) -> Result<ValueId> {
        let shape = [self.rows, self.index.len().checked_div(self.rows).unwrap_or(0)];
        let index = n.int_table(&shape, &self.index);
        let weight = n.float_table(&shape, &self.weight);
        n.emit(Resample { axis }, &[x, index, weight])
    }

    /// From rows of possibly different lengths.
    fn new(rows: Vec<Vec<(i32, f64)>>) -> Table {
        let taps = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut table = Table { index: Vec::new(), weight: Vec::new(), rows: rows.len() };
        for row in rows {
            let missing = taps - row.len();
            table.index.extend(row.iter().map(|t| t.0).chain(std::iter::repeat_n(-1, missing)));
            table.weight.extend(row.iter().map(|t| t.1 as f32).chain(std::iter::repeat_n(0.0, missing)));
        }
        table
    }
}

/// How ONNX Resize maps and filters.
struct Resize {
    mode: String,
    transform: String,
    nearest: String,
    cubic_a: f64,
    exclude_outside: bool,
    antialias: bool,
}

impl Resize {
    /// The position in the operand that position `i` of the result looks at.
    fn source(&self, i: usize, from: usize, to: usize, scale: f64, roi: (f64, f64)) -> Option<f64> {
        let (x, from_f, to_f) = (i as f64, from as f64, to as f64);
        Some(match self.transform.as_str() {
            "half_pixel" => (x + 0.5) / scale - 0.5,
            "pytorch_half_pixel" => {
                if to > 1 {
                    (x + 0.5) / scale - 0.5
                } else {
                    0.0
                }
            }
            "half_pixel_symmetric" => {
                let adjusted = to_f / (scale * from_f);
                from_f / 2.0 * (1.0 - adjusted) + (x + 0.5) / scale - 0.5
            }
            "align_corners" => {
                if to > 1 {
                    x * (from_f - 1.0) / (to_f - 1.0)
                } else {
                    0.0
                }
            }
            "asymmetric" => x / scale,
            "tf_crop_and_resize" => {
                let (start, end) = roi;
                if to > 1 {
                    start * (from_f - 1.0) + x * (end - start) * (from_f - 1.0) / (to_f - 1.0)
                } else {
                    0.5 * (start + end) * (from_f - 1.0)
                }
            }
            _ => return None,
        })
    }

    /// The taps around `x` in an axis of `from` elements.
    fn taps(&self, x: f64, from: usize, scale: f64) -> Option<Vec<(i32, f64)>> {
        let last = from as i64 - 1;
        let clamp = |p: i64| p.clamp(0, last) as i32;
        if self.mode == "nearest" {
            let p = match self.nearest.as_str() {
                "round_prefer_floor" => (x - 0.5).ceil(),
                "round_prefer_ceil" => (x + 0.5).floor(),
                "floor" => x.floor(),
                "ceil" => x.ceil(),
                // What ONNX Runtime does before version 11, which says nothing about it.
                "simple" if scale < 1.0 => x.ceil(),
                "simple" => x.floor(),
                _ => return None,
            };
            return Some(vec![(clamp(p as i64), 1.0)]);
        }
        let reach = match self.mode.as_str() {
            "linear" => 1.0,
            "cubic" => 2.0,
            _ => return None,
        };
        let shrink = if self.antialias { scale.min(1.0) } else { 1.0 };
        let base = x.floor();
        let start = (-reach / shrink).floor() as i64 + 1;
        let end = 2 - start;
        let a = self.cubic_a;
        let filter = |d: f64| {
            let d = d.abs();
            match (self.mode == "linear", d) {
                (true, d) => (1.0 - d).max(0.0),
                (false, d) if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
                (false, d) if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
                _ => 0.0,
            }
        };
        let mut taps: Vec<(i64, f64)> =
            (start..end).map(|o| (base as i64 + o, filter((o as f64 - (x - base)) * shrink))).collect();
        if self.exclude_outside {
            taps.retain(|t| (0..=last).contains(&t.0));
        }
        if self.exclude_outside || self.antialias {
            let sum: f64 = taps.iter().map(|t| t.1).sum();
            taps.iter_mut().for_each(|t| t.1 /= sum);
        }
        Some(taps.into_iter().map(|t| (clamp(t.0), t.1)).collect())
    }
}

/// ONNX Resize.
pub(super) fn import_resize(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let old = n.opset() < 11;
    let resize = Resize {
        mode: n.text("mode", "nearest")?,
        transform: n.text("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })?,
        nearest: n.text("nearest_mode", if old { "simple" } else { "round_prefer_floor" })?,
        cubic_a: n.float("cubic_coeff_a", -0.75)?,
        exclude_outside: n.int("exclude_outside", 0)? != 0,
        antialias: n.int("antialias", 0)? != 0,
    };
    let outside = n.float("extrapolation_value", 0.0)?;
    let shape = n.ty(x).shape.clone();
    let axes: Vec<usize> = match n.ints("axes")? {
        Some(axes) => axes.into_iter().map(|a| n.axis_of(a, shape.len())).collect::<Result<_>>()?,
        None => (0..shape.len()).collect(),
    };
    let roi = if old { None } else { n.optional_floats(1)? }.filter(|r| r.len() == 2 * axes.len());
    let scales = n.optional_floats(if old { 1 } else { 2 })?.filter(|s| !s.is_empty());
    refuse_scales(n, scales.iter().flatten())?;
    let sizes = if old { None } else { n.optional_ints(3)?.filter(|s| !s.is_empty()) };
    let policy = n.text("keep_aspect_ratio_policy", "stretch")?;
    let mut plan = Vec::new();
    match (scales, sizes) {
        (Some(scales), None) if scales.len() == axes.len() => {
            for (k, &axis) in axes.iter().enumerate() {
                plan.push((axis, (shape[axis] as f64 * scales[k]).floor() as usize, scales[k]));
            }
        }
        (None, Some(sizes)) if sizes.len() == axes.len() => {
            let ratios: Vec<f64> = axes.iter().zip(&sizes).map(|(a, s)| *s as f64 / shape[*a] as f64).collect();
            let common = match policy.as_str() {
                "stretch" => None,
                "not_larger" => ratios.iter().copied().reduce(f64::min),
                "not_smaller" => ratios.iter().copied().reduce(f64::max),
                other => return Err(n.fail(format!("keep_aspect_ratio_policy `{other}` is not known"))),
            };
            for (k, &axis) in axes.iter().enumerate() {
                let (size, scale) = match common {
                    Some(scale) => ((scale * shape[axis] as f64).round() as usize, scale),
                    None => (sizes[k].max(0) as usize, ratios[k]),
                };
                plan.push((axis, size, scale));
            }
        }
        _ => return Err(n.fail("needs either constant scales or constant sizes, one for each axis")),
    }
    let crop = resize.transform == "tf_crop_and_resize";
    // The operator's reference takes the corner from the size times the scale, ONNX Runtime from the size of the result.
    if resize.transform == "align_corners" && plan.iter().any(|p| p.1 as f64 != shape[p.0] as f64 * p.2) {
        return Err(
            n.fail("align_corners with scales that give no whole sizes means different things to different runtimes")
        );
    }
    let mut y = x;
    for (k, (axis, to, scale)) in plan.into_iter().enumerate() {
        let from = shape[axis];
        if to == from && scale == 1.0 && !crop {
            continue;
        }
        if to > TABLE || (from == 0 && to > 0) {
            return Err(n.fail(format!("a dimension of {from} cannot become one of {to}")));
        }
        let span = roi.as_ref().map_or((0.0, 1.0), |r| (r[k], r[k + axes.len()]));
        let mut rows = Vec::with_capacity(to);
        for i in 0..to {
            let at = resize
                .source(i, from, to, scale, span)
                .ok_or_else(|| n.fail(format!("coordinate_transformation_mode `{}` is not known", resize.transform)))?;
            if crop && !(0.0..=from as f64 - 1.0).contains(&at) {
                if outside != 0.0 {
                    return Err(n.fail("extrapolation_value other than 0 is not supported"));
                }
                rows.push(Vec::new());
                continue;
            }
            let taps = resize.taps(at, from, scale);
            rows.push(taps.ok_or_else(|| {
                n.fail(format!("mode `{}` with nearest_mode `{}` is not known", resize.mode, resize.nearest))
            })?);
        }
        y = Table::new(rows).apply(n, y, axis)?;
    }
    Ok(vec![y])
}

/// Refuses scales that are none.
fn refuse_scales<'s>(n: &OnnxNode<'_, '_>, scales: impl Iterator<Item = &'s f64>) -> Result<()> {
    match scales.into_iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        Some(scale) => Err(n.fail(format!("{scale} is no scale; scales are above 0"))),
        None => Ok(()),
    }
}

/// ONNX Upsample, the predecessor of Resize.
pub(super) fn import_upsample(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let resize = Resize {
        mode: n.text("mode", "nearest")?,
        transform: "asymmetric".into(),
        nearest: "floor".into(),
        cubic_a: -0.75,
        exclude_outside: false,
        antialias: false,
    };
    let scales = if n.opset() < 9 {
        n.floats("scales")?.map(|s| s.into_iter().map(f64::from).collect())
    } else {
        n.optional_floats(1)?
    };
    let scales: Vec<f64> = scales.ok_or_else(|| n.fail("scales are missing"))?;
    refuse_scales(n, scales.iter())?;
    let mut y = x;
    for (axis, scale) in scales.into_iter().enumerate().filter(|s| s.1 != 1.0) {
        let from = n.ty(y).shape.get(axis).copied().ok_or_else(|| n.fail("there are more scales than dimensions"))?;
        let to = (from as f64 * scale).floor() as usize;
        if to > TABLE {
            return Err(n.fail(format!("a dimension of {from} cannot become one of {to}")));
        }
        let rows: Option<Vec<_>> = (0..to).map(|i| resize.taps(i as f64 / scale, from, scale)).collect();
        let rows = rows.ok_or_else(|| n.fail(format!("mode `{}` is not known", resize.mode)))?;
        y = Table::new(rows).apply(n, y, axis)?;
    }
    Ok(vec![y])
}

/// ONNX AveragePool: the number of elements in a window is the product of its extents along each axis, so the mean separates.
pub(super) fn import_average_pool(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let shape = n.ty(x).shape.clone();
    let kernel = n.sizes("kernel_shape")?.unwrap_or_default();
    let spatial = kernel.len();
    let strides = n.sizes("strides")?.unwrap_or_else(|| vec![1; spatial]);
    let dilations = n.sizes("dilations")?.unwrap_or_else(|| vec![1; spatial]);
    let pads = n.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * spatial]);
    let include = n.int("count_include_pad", 0)? != 0;
    let ceil = n.int("ceil_mode", 0)? != 0;
    let auto = n.text("auto_pad", "NOTSET")?;
    let fits =
        shape.len() == spatial + 2 && [strides.len(), dilations.len()] == [spatial; 2] && pads.len() == 2 * spatial;
    if !fits || strides.contains(&0) || kernel.contains(&0) {
        return Err(n.fail(format!("kernel {kernel:?} and the other attributes do not fit input {shape:?}")));
    }
    let mut y = x;
    for i in 0..spatial {
        let (from, k, s, d) = (shape[2 + i], kernel[i], strides[i], dilations[i]);
        let reach = (k - 1) * d + 1;
        let (mut begin, mut end) = (pads[i], pads[spatial + i]);
        if auto != "NOTSET" {
            let out = from.div_ceil(s);
            let total = if auto == "VALID" { 0 } else { ((out.max(1) - 1) * s + reach).saturating_sub(from) };
            (begin, end) =
                if auto == "SAME_LOWER" { (total - total / 2, total / 2) } else { (total / 2, total - total / 2) };
        }
        let padded = from + begin + end;
        let room = padded.checked_sub(reach).ok_or_else(|| n.fail("the kernel is larger than the padded input"))?;
        let mut to = if ceil { room.div_ceil(s) } else { room / s } + 1;
        // A window must not start in the padding at the end.
        if ceil && (to - 1) * s >= from + begin {
            to -= 1;
        }
        if to.saturating_mul(k) > TABLE {
            return Err(n.fail(format!("{to} windows of {k} elements are too many")));
        }
        let rows = (0..to).map(|o| {
            let positions: Vec<usize> = (0..k).map(|t| o * s + t * d).filter(|p| *p < padded).collect();
            let real: Vec<i32> =
                positions.iter().filter(|p| (begin..begin + from).contains(p)).map(|p| (p - begin) as i32).collect();
            let count = if include { positions.len() } else { real.len() };
            real.into_iter().map(|p| (p, 1.0 / count as f64)).collect()
        });
        y = Table::new(rows.collect()).apply(n, y, 2 + i)?;
    }
    Ok(vec![y])
}
