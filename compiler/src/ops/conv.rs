//! Conv: convolution in one to three dimensions (ONNX Conv, versions 1 to 22, and ConvTranspose, versions 1 to 22, which is the
//! gradient of a convolution with respect to its input).

use super::{Case, Reduce, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::{Lower, dims, int};
use sara_kernels::conv::{self, Geometry};
use sara_kernels::{DType, Scalar, conv_grad_input};

operator! {
    /// Convolution. Operands: `x` `[n, ci, spatial..]`, `w` `[co, ci / groups, kernel..]`, optional `bias` `[co]`.
    Conv {
        /// Number of groups.
        groups: usize,
        /// Distance between windows along each spatial dimension.
        strides: Vec<usize>,
        /// Zeros before the first element and after the last: all begins, then all ends.
        pads: Vec<usize>,
        /// Distance between taps along each spatial dimension.
        dilations: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(w), bias] = inputs else { return Err("takes three operands".into()) };
        let window = Window { groups: self.groups, strides: &self.strides, pads: &self.pads, dilations: &self.dilations };
        let y = window.output(&x.shape, &w.shape)?;
        if bias.is_some_and(|b| b.shape != [w.shape[0]]) {
            return Err("bias needs one element an output channel".into());
        }
        Ok(vec![x.with_shape(&y)])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let (x, w, dy) = (g.input(0), g.input(1), g.dy());
        let (strides, pads, dilations) = (self.strides.clone(), self.pads.clone(), self.dilations.clone());
        let groups = self.groups;
        Ok(Some(match wrt {
            0 => {
                let shape = g.ty(x).shape;
                g.emit(ConvGradInput { shape, groups, strides, pads, dilations }, &[dy, w])?
            }
            1 => {
                let kernel = g.ty(w).shape[2..].to_vec();
                g.emit(ConvGradWeight { kernel, groups, strides, pads, dilations }, &[x, dy])?
            }
            _ => {
                let axes = (0..g.ty(dy).rank()).filter(|a| *a != 1).collect();
                g.emit(Reduce { op: "sum".into(), axes, keepdims: false }, &[dy])?
            }
        }))
    }

    fn rounded(&self, inputs: &[Option<&Type>]) -> Rounded {
        // With weights in single precision the products are of single precision.
        let half = matches!(inputs, [_, Some(w), ..] if w.dtype == DType::Bf16);
        if half { Rounded { operands: &[0], ..Rounded::default() } } else { Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let (x, w, y) = (l.input_type(0).clone(), &l.input_type(1).shape, &l.output_type(0).shape);
        let window = Window { groups: self.groups, strides: &self.strides, pads: &self.pads, dilations: &self.dilations };
        let scalars = window.scalars(&x.shape, y, &w[2..]);
        let work = conv::work_len(&window.geometry(&x.shape, y, &w[2..]));
        let work = (work > 0 && x.dtype.computed() == DType::F32).then(|| l.temp(DType::F32, work));
        let args = [Some(l.input(0)), Some(l.input(1)), l.try_input(2), Some(l.output(0)), work];
        l.launch("conv", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        let conv = |groups, s: &[usize], p: &[usize], d: &[usize]| {
            Conv { groups, strides: s.to_vec(), pads: p.to_vec(), dilations: d.to_vec() }
        };
        vec![
            Case::new(conv(1, &[1, 1], &[1, 1, 1, 1], &[1, 1]), &["f32[2,3,5,4]", "f32[4,3,3,3]", "f32[4]"]),
            Case::new(conv(1, &[2, 2], &[0, 0, 1, 1], &[1, 1]), &["f32[1,2,5,5]", "f32[3,2,3,3]", "_"]),
            Case::new(conv(2, &[1, 2], &[0, 1, 0, 1], &[1, 2]), &["f32[1,4,3,7]", "f32[2,2,2,3]", "f32[2]"]),
            Case::new(conv(1, &[1, 1], &[0, 0, 0, 0], &[1, 1]), &["f32[2,3,2,2]", "f32[5,3,1,1]", "f32[5]"]),
            Case::new(conv(3, &[1], &[2, 0], &[2]), &["f32[2,3,6]", "f32[3,1,2]", "_"]),
            Case::new(conv(1, &[1, 1, 2], &[1, 0, 0, 0, 0, 1], &[1, 1, 1]), &["f32[1,2,2,3,4]", "f32[2,2,2,2,2]", "_"]),
        ]
    }
}

operator! {
    /// Gradient of a convolution with respect to its input. Operands: `dy`, `w`.
    ConvGradInput {
        /// Shape of the convolution's input.
        shape: Vec<usize>,
        /// See [`Conv`].
        groups: usize,
        /// See [`Conv`].
        strides: Vec<usize>,
        /// See [`Conv`].
        pads: Vec<usize>,
        /// See [`Conv`].
        dilations: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(dy), Some(w)] = inputs else { return Err("takes two operands".into()) };
        let window = Window { groups: self.groups, strides: &self.strides, pads: &self.pads, dilations: &self.dilations };
        if window.output(&self.shape, &w.shape)? != dy.shape {
            return Err(format!("a convolution of {:?} does not give {:?}", self.shape, dy.shape));
        }
        Ok(vec![dy.with_shape(&self.shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let (x, w, dy) = (g.input(0), g.input(1), g.dy());
        let (strides, pads, dilations) = (self.strides.clone(), self.pads.clone(), self.dilations.clone());
        let groups = self.groups;
        Ok(Some(if wrt == 0 {
            g.emit_all(Conv { groups, strides, pads, dilations }, &[Some(dy), Some(w), None])?[0]
        } else {
            let kernel = g.ty(w).shape[2..].to_vec();
            g.emit(ConvGradWeight { kernel, groups, strides, pads, dilations }, &[dy, x])?
        }))
    }

    fn rounded(&self, inputs: &[Option<&Type>]) -> Rounded {
        // With weights in single precision the products are of single precision.
        let half = matches!(inputs, [_, Some(w), ..] if w.dtype == DType::Bf16);
        if half { Rounded { operands: &[0], ..Rounded::default() } } else { Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let (y, w) = (l.input_type(0).clone(), &l.input_type(1).shape);
        let window = Window { groups: self.groups, strides: &self.strides, pads: &self.pads, dilations: &self.dilations };
        let scalars = window.scalars(&self.shape, &y.shape, &w[2..]);
        let work = conv_grad_input::work_len(&window.geometry(&self.shape, &y.shape, &w[2..]));
        let work = (work > 0 && y.dtype.computed() == DType::F32).then(|| l.temp(DType::F32, work));
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0)), work];
        l.launch("conv_grad_input", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        let op = |shape: &[usize], groups, s: &[usize], p: &[usize], d: &[usize]| ConvGradInput {
            shape: shape.to_vec(), groups, strides: s.to_vec(), pads: p.to_vec(), dilations: d.to_vec(),
        };
        vec![
            Case::new(op(&[1, 3, 4, 4], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]), &["f32[1,2,4,4]", "f32[2,3,3,3]"]),
            Case::new(op(&[2, 4, 5, 5], 2, &[2, 2], &[1, 0, 0, 1], &[1, 1]), &["f32[2,2,2,2]", "f32[2,2,3,3]"]),
        ]
    }
}

operator! {
    /// Dense gradient of a convolution with respect to its weight. Operands: `x`, `dy`.
    ConvGradWeight {
        /// Spatial shape of the weight.
        kernel: Vec<usize>,
        /// See [`Conv`].
        groups: usize,
        /// See [`Conv`].
        strides: Vec<usize>,
        /// See [`Conv`].
        pads: Vec<usize>,
        /// See [`Conv`].
        dilations: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy)] = inputs else { return Err("takes two operands".into()) };
        let mut w = vec![dy.shape[1], x.shape[1] / self.groups.max(1)];
        w.extend(&self.kernel);
        let window = Window { groups: self.groups, strides: &self.strides, pads: &self.pads, dilations: &self.dilations };
        if window.output(&x.shape, &w)? != dy.shape {
            return Err(format!("a convolution of {:?} does not give {:?}", x.shape, dy.shape));
        }
        Ok(vec![dy.with_shape(&w)])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(super::unary::second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        let (x, y) = (&l.input_type(0).shape, &l.input_type(1).shape);
        let window = Window { groups: self.groups, strides: &self.strides, pads: &self.pads, dilations: &self.dilations };
        let scalars = window.scalars(x, y, &self.kernel);
        l.launch("conv_grad_weight", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        let op = ConvGradWeight {
            kernel: vec![3, 3], groups: 1, strides: vec![1, 1], pads: vec![1, 1, 1, 1], dilations: vec![1, 1],
        };
        vec![Case::new(op, &["f32[1,3,4,4]", "f32[1,2,4,4]"])]
    }
}

/// How the windows of a convolution lie.
pub(super) struct Window<'a> {
    /// See [`Conv`].
    pub(super) groups: usize,
    /// See [`Conv`].
    pub(super) strides: &'a [usize],
    /// See [`Conv`].
    pub(super) pads: &'a [usize],
    /// See [`Conv`].
    pub(super) dilations: &'a [usize],
}

impl Window<'_> {
    /// Shape of the result for an input and a weight of these shapes.
    fn output(&self, x: &[usize], w: &[usize]) -> Result<Vec<usize>, String> {
        let spatial = x.len().saturating_sub(2);
        if !(1..=3).contains(&spatial) || w.len() != x.len() {
            return Err(format!("takes one to three spatial dimensions, not operands {x:?} and {w:?}"));
        }
        if [self.strides.len(), self.dilations.len(), self.pads.len() / 2] != [spatial; 3]
            || self.strides.contains(&0)
            || self.dilations.contains(&0)
        {
            return Err(format!("strides, dilations and pads must fit {spatial} dimensions"));
        }
        let fits = self.groups > 0 && Some(x[1]) == w[1].checked_mul(self.groups) && w[0].is_multiple_of(self.groups);
        if !fits {
            return Err(format!(
                "{} input and {} output channels do not fit {} groups and weight {w:?}",
                x[1], w[0], self.groups
            ));
        }
        let mut y = vec![x[0], w[0]];
        for i in 0..spatial {
            let padded = x[2 + i] + self.pads[i] + self.pads[spatial + i];
            let reach = w[2 + i].saturating_sub(1) * self.dilations[i] + 1;
            if padded < reach || w[2 + i] == 0 {
                return Err(format!("the kernel is larger than dimension {i} of the padded input"));
            }
            y.push((padded - reach) / self.strides[i] + 1);
        }
        Ok(y)
    }

    /// The shape as the convolution kernels see it, in three spatial dimensions.
    pub(super) fn geometry(&self, x: &[usize], y: &[usize], kernel: &[usize]) -> Geometry {
        let three = |own: &[usize], fill: usize| {
            let mut all = [fill; 3];
            all[3 - own.len()..].copy_from_slice(own);
            all
        };
        Geometry {
            n: x[0],
            groups: self.groups,
            ci: x[1],
            co: y[1],
            input: three(&x[2..], 1),
            output: three(&y[2..], 1),
            kernel: three(kernel, 1),
            strides: three(self.strides, 1),
            pads: three(&self.pads[..kernel.len()], 0),
            dilations: three(self.dilations, 1),
        }
    }

    /// The same as the scalars of a launch.
    pub(super) fn scalars(&self, x: &[usize], y: &[usize], kernel: &[usize]) -> Vec<Scalar> {
        let g = self.geometry(x, y, kernel);
        let mut scalars = [g.n, g.groups, g.ci, g.co].map(int).to_vec();
        scalars.extend([g.input, g.output, g.kernel, g.strides, g.pads, g.dilations].iter().map(|d| dims(d)));
        scalars
    }
}

/// Attributes that Conv and ConvTranspose share, with their defaults.
struct Attributes {
    groups: usize,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Option<Vec<usize>>,
    auto: String,
}

fn attributes(n: &mut OnnxNode<'_, '_>, w: &[usize]) -> Result<Attributes> {
    let spatial = w.len().saturating_sub(2);
    if let Some(kernel) = n.sizes("kernel_shape")?
        && kernel != w[2.min(w.len())..]
    {
        return Err(n.fail(format!("kernel_shape {kernel:?} differs from the weight's {w:?}")));
    }
    let ones = || vec![1; spatial];
    let groups = n.int("group", 1)?;
    Ok(Attributes {
        groups: usize::try_from(groups).map_err(|_| n.fail("group is negative"))?,
        strides: n.sizes("strides")?.unwrap_or_else(ones),
        dilations: n.sizes("dilations")?.unwrap_or_else(ones),
        pads: n.sizes("pads")?,
        auto: n.text("auto_pad", "NOTSET")?,
    })
}

/// ONNX Conv.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, w, bias) = (n.input(0)?, n.input(1)?, n.optional(2));
    let (shape, kernel) = (n.ty(x).shape.clone(), n.ty(w).shape.clone());
    let Attributes { groups, strides, dilations, pads, auto } = attributes(n, &kernel)?;
    let spatial = kernel.len().saturating_sub(2);
    if shape.len() != kernel.len() || [strides.len(), dilations.len()] != [spatial; 2] || strides.contains(&0) {
        return Err(n.fail(format!("input {shape:?}, weight {kernel:?} and the attributes do not fit")));
    }
    let pads = match (auto.as_str(), pads) {
        ("NOTSET", Some(pads)) => pads,
        ("NOTSET" | "VALID", _) => vec![0; 2 * spatial],
        ("SAME_UPPER" | "SAME_LOWER", _) => {
            let mut pads = vec![0; 2 * spatial];
            for i in 0..spatial {
                let out = shape[2 + i].div_ceil(strides[i]);
                let reach = (out.max(1) - 1) * strides[i] + (kernel[2 + i].max(1) - 1) * dilations[i] + 1;
                let total = reach.saturating_sub(shape[2 + i]);
                let small = total / 2;
                let (begin, end) = if auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
                (pads[i], pads[spatial + i]) = (begin, end);
            }
            pads
        }
        (other, _) => return Err(n.fail(format!("auto_pad `{other}` is not known"))),
    };
    let op = Conv { groups, strides, pads, dilations };
    Ok(vec![n.emit_all(op, &[Some(x), Some(w), bias])?[0]])
}

/// ONNX ConvTranspose.
pub(super) fn import_transpose(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, w, bias) = (n.input(0)?, n.input(1)?, n.optional(2));
    let (from, kernel) = (n.ty(x).shape.clone(), n.ty(w).shape.clone());
    let Attributes { groups, strides, dilations, pads, auto } = attributes(n, &kernel)?;
    let spatial = kernel.len().saturating_sub(2);
    let extra = n.sizes("output_padding")?.unwrap_or_else(|| vec![0; spatial]);
    let wanted = n.sizes("output_shape")?;
    if from.len() != kernel.len() || spatial == 0 || [strides.len(), dilations.len(), extra.len()] != [spatial; 3] {
        return Err(n.fail(format!("input {from:?}, weight {kernel:?} and the attributes do not fit")));
    }
    let mut pads = pads.unwrap_or_else(|| vec![0; 2 * spatial]);
    if pads.len() != 2 * spatial || kernel[2..].contains(&0) || from[2..].contains(&0) {
        return Err(n.fail("pads or sizes do not fit"));
    }
    let channels = kernel[1].checked_mul(groups).ok_or_else(|| n.fail("group is too large"))?;
    let mut shape = vec![from[0], channels];
    for i in 0..spatial {
        let reach = strides[i] * (from[2 + i] - 1) + extra[i] + (kernel[2 + i] - 1) * dilations[i] + 1;
        let same = auto == "SAME_UPPER" || auto == "SAME_LOWER";
        let target = match &wanted {
            Some(sizes) => (sizes.len() + i).checked_sub(spatial).and_then(|at| sizes.get(at).copied()),
            // A kernel smaller than the stride does not reach that far.
            None if same => Some(reach.min(from[2 + i] * strides[i])),
            None => None,
        };
        if let Some(target) = target {
            let total = reach.saturating_sub(target);
            let small = total / 2;
            let (begin, end) = if auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
            (pads[i], pads[spatial + i]) = (begin, end);
            shape.push(target);
        } else {
            let cut = pads[i] + pads[spatial + i];
            shape.push(reach.checked_sub(cut).ok_or_else(|| n.fail("pads take more than there is"))?);
        }
    }
    // The forward convolution that this is the gradient of sees what `output_padding` adds as part of its input.
    let op = ConvGradInput { shape, groups, strides, pads, dilations };
    let y = n.emit(op, &[x, w])?;
    match bias {
        None => Ok(vec![y]),
        Some(bias) => {
            let mut column = vec![1; spatial + 1];
            column[0] = n.ty(bias).len();
            let bias = n.reshape(bias, &column)?;
            n.binary("add", y, bias).map(|y| vec![y])
        }
    }
}
