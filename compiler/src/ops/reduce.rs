//! Reduce: sum, mean, max, min and product over axes (ONNX ReduceSum and its relatives, versions 1 to 20; GlobalAveragePool,
//! versions 1 to 22).

use super::{Case, Cast, Select, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::{Lower, dims};
use sara_kernels::{DType, Scalar};

operator! {
    /// `y = op over axes of x`.
    Reduce {
        /// `sum`, `mean`, `max`, `min` or `prod`.
        op: String,
        /// The axes, ascending.
        axes: Vec<usize>,
        /// Whether the axes stay with dimension 1.
        keepdims: bool,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        if !self.axes.is_sorted_by(|a, b| a < b) || self.axes.iter().any(|a| *a >= x.rank()) {
            return Err(format!("axes {:?} are not ascending axes of {:?}", self.axes, x.shape));
        }
        let empty = self.axes.iter().any(|a| x.shape[*a] == 0);
        if empty && matches!(self.op.as_str(), "max" | "min") {
            return Err(format!("{} of no elements", self.op));
        }
        let kept = kept_shape(&x.shape, &self.axes);
        let shape = if self.keepdims { kept } else { drop_axes(&x.shape, &self.axes) };
        Ok(vec![x.with_shape(&shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        let x = g.input(0);
        let shape = g.ty(x).shape;
        let kept = kept_shape(&shape, &self.axes);
        let dy = g.dy();
        let dy = g.reshape(dy, &kept)?;
        let count: usize = self.axes.iter().map(|a| shape[*a]).product();
        let slope = match self.op.as_str() {
            "sum" => dy,
            "mean" => {
                let share = g.scalar(dy, 1.0 / count as f64);
                g.binary("mul", dy, share)?
            }
            "prod" => {
                // The product of the other elements: that of all but the zeros, unless another element is zero.
                let dtype = g.ty(x).dtype;
                let (zero, one) = (g.scalar(x, 0.0), g.scalar(x, 1.0));
                let is_zero = g.binary("equal", x, zero)?;
                let filled = g.emit(Select {}, &[is_zero, one, x])?;
                let reduce = |op: &str| Reduce { op: op.to_owned(), axes: self.axes.clone(), keepdims: true };
                let product = g.emit(reduce("prod"), &[filled])?;
                let rest = g.binary("div", product, filled)?;
                let counted = g.emit(Cast { to: dtype }, &[is_zero])?;
                let zeros = g.emit(reduce("sum"), &[counted])?;
                let others = g.binary("sub", zeros, counted)?;
                let alone = g.binary("equal", others, zero)?;
                let rest = g.emit(Select {}, &[alone, rest, zero])?;
                g.binary("mul", dy, rest)?
            }
            // Ties share the gradient.
            _ => {
                let dtype = g.ty(x).dtype;
                let y = g.output(0);
                let y = g.reshape(y, &kept)?;
                let mask = g.binary("equal", x, y)?;
                let mask = g.emit(Cast { to: dtype }, &[mask])?;
                let ties = g.emit(Reduce { op: "sum".into(), axes: self.axes.clone(), keepdims: true }, &[mask])?;
                let share = g.binary("div", dy, ties)?;
                g.binary("mul", mask, share)?
            }
        };
        g.expand(slope, &shape).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let shape = l.input_type(0).shape.clone();
        let args = [Some(l.input(0)), Some(l.output(0))];
        l.launch("reduce", &args, vec![Scalar::Word(self.op.clone()), dims(&shape), dims(&self.axes)]);
    }

    fn cases() -> Vec<Case> {
        let case = |op: &str, axes: &[usize], keepdims| {
            Case::new(Reduce { op: op.to_owned(), axes: axes.to_vec(), keepdims }, &["f32[2,3,4]"])
        };
        vec![
            case("sum", &[1], false),
            case("mean", &[0, 2], true),
            case("max", &[2], true),
            case("min", &[0], false),
            case("prod", &[1, 2], false).positive(),
            Case::new(Reduce { op: "prod".into(), axes: vec![0], keepdims: false }, &["i64[3]"]).positive(),
        ]
    }
}

fn kept_shape(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().map(|(i, d)| if axes.contains(&i) { 1 } else { *d }).collect()
}

fn drop_axes(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| *d).collect()
}

/// ONNX ReduceSum and its relatives.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let rank = n.ty(x).rank();
    let since = if n.op_type() == "ReduceSum" { 13 } else { 18 };
    let axes = n.axes(1, since, rank)?.filter(|a| !a.is_empty());
    let idle = n.int("noop_with_empty_axes", 0)? != 0;
    let keepdims = n.int("keepdims", 1)? != 0;
    let mut axes = match axes {
        Some(axes) => axes,
        None if idle => Vec::new(),
        None => (0..rank).collect(),
    };
    axes.sort_unstable();
    axes.dedup();
    let shape = n.ty(x).shape.clone();
    let nothing = axes.iter().any(|a| shape[*a] == 0);
    let reduce = |n: &mut OnnxNode<'_, '_>, op: &str, x| {
        if nothing && matches!(op, "max" | "min") {
            // The largest of no elements is the smallest there is, and the other way round.
            let end = match (op, n.ty(x).dtype) {
                ("max", DType::Bool) => 0.0,
                ("max", _) => f64::NEG_INFINITY,
                _ => f64::INFINITY,
            };
            let end = n.scalar_like(x, end)?;
            let kept = kept_shape(&shape, &axes);
            n.expand(end, &if keepdims { kept } else { drop_axes(&shape, &axes) })
        } else if axes.is_empty() {
            Ok(x)
        } else {
            n.emit(Reduce { op: op.to_owned(), axes: axes.clone(), keepdims }, &[x])
        }
    };
    let y = match n.op_type() {
        "ReduceSum" => reduce(n, "sum", x)?,
        "ReduceMean" => reduce(n, "mean", x)?,
        "ReduceMax" => reduce(n, "max", x)?,
        "ReduceMin" => reduce(n, "min", x)?,
        "ReduceProd" => reduce(n, "prod", x)?,
        "ReduceL1" => {
            let size = n.unary("abs", x)?;
            reduce(n, "sum", size)?
        }
        "ReduceL2" => {
            let square = n.binary("mul", x, x)?;
            let sum = reduce(n, "sum", square)?;
            n.unary("sqrt", sum)?
        }
        "ReduceSumSquare" => {
            let square = n.binary("mul", x, x)?;
            reduce(n, "sum", square)?
        }
        "ReduceLogSum" => {
            let sum = reduce(n, "sum", x)?;
            n.unary("log", sum)?
        }
        "ReduceLogSumExp" if axes.is_empty() => x,
        "ReduceLogSumExp" if nothing => reduce(n, "max", x)?,
        "ReduceLogSumExp" => {
            // Less the largest element, no exponential overflows.
            let max = n.emit(Reduce { op: "max".to_owned(), axes: axes.clone(), keepdims: true }, &[x])?;
            let less = n.binary("sub", x, max)?;
            let exp = n.unary("exp", less)?;
            let sum = reduce(n, "sum", exp)?;
            let log = n.unary("log", sum)?;
            let shape = n.ty(log).shape.clone();
            let max = n.reshape(max, &shape)?;
            n.binary("add", log, max)?
        }
        other => return Err(n.fail(format!("`{other}` is not a reduction"))),
    };
    Ok(vec![y])
}

/// ONNX GlobalAveragePool.
pub(super) fn import_global_average(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let rank = n.ty(x).rank();
    n.emit(Reduce { op: "mean".into(), axes: (2..rank).collect(), keepdims: true }, &[x]).map(|y| vec![y])
}
