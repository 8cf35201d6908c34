//! The loss of a training step: how far the first output is from an input called `target`.

use crate::error::{Error, Result};
use crate::ir::verify::LOSS;
use crate::ir::{Block, Def, Graph, Type, ValueId};
use crate::ops::{Binary, MseLoss, Op, Reshape, Slice, Unary};
use sara_kernels::DType;

/// Name of the input that the loss compares the first output with.
pub const TARGET: &str = "target";
/// Name of the input that weights the samples of a batch.
pub const WEIGHT: &str = "loss_weight";

/// How a difference `d` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Distance {
    /// `d^2`.
    #[default]
    L2,
    /// `2 c (sqrt(d^2 + c^2) - c)`, the pseudo-Huber loss as diffusers has it.
    Huber {
        /// Where the parabola becomes a line.
        c: f64,
    },
    /// `2 (sqrt(d^2 + c^2) - c)`.
    SmoothL1 {
        /// Where the parabola becomes a line.
        c: f64,
    },
}

/// The loss: the mean over all elements of a distance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// How a difference counts.
    pub distance: Distance,
    /// Whether each sample has a weight, from an input `loss_weight` with one for each.
    pub weighted: bool,
    /// Channels that are compared, where the output has more: what models say of their variance does not train.
    pub channels: Option<usize>,
}

impl Loss {
    /// Adds the loss to a graph and returns it beside the outputs.
    pub fn add(&self, graph: &mut Graph) -> Result<ValueId> {
        let refuse = |kind: &str, name: &str, what: &str| {
            Err(Error::Option(format!(
                "the model has an {kind} called `{name}`, which is the name of {what}; rename it in the export"
            )))
        };
        for (name, what) in [(TARGET, "what the loss compares the output with"), (WEIGHT, "the weights of the samples")]
        {
            if graph.values().any(|(_, v)| matches!(&v.def, Def::Arg(own) if own == name)) {
                return refuse("input", name, what);
            }
        }
        if graph.returns.iter().any(|r| r.0 == LOSS) {
            return refuse("output", LOSS, "the loss itself");
        }
        let output = self.compared(graph)?;
        let ty = graph.ty(output).clone();
        let target = graph.add_value(TARGET, ty, Def::Arg(TARGET.to_owned()));
        let (mut x, mut t) = match self.distance {
            Distance::L2 => (output, target),
            Distance::Huber { c } => root(graph, output, target, c, 2.0 * c)?,
            Distance::SmoothL1 { c } => root(graph, output, target, c, 2.0)?,
        };
        if self.weighted {
            // w (x - t)^2 = (sqrt(w) x - sqrt(w) t)^2.
            let scale = root_of_weight(graph, x)?;
            x = emit(graph, binary("mul"), &[x, scale])?;
            t = emit(graph, binary("mul"), &[t, scale])?;
        }
        let loss = graph.emit(Block::Forward, MseLoss {}.into(), &[Some(x), Some(t)], LOSS, &"loss".into())?[0];
        graph.returns.push((LOSS.to_owned(), loss));
        Ok(loss)
    }

    /// The channels of the first output that are compared.
    fn compared(&self, graph: &mut Graph) -> Result<ValueId> {
        let output = graph.returns[0].1;
        let mut sizes = graph.ty(output).shape.clone();
        match self.channels {
            Some(channels) if sizes.len() > 1 && channels < sizes[1] => {
                sizes[1] = channels;
                let (starts, steps) = (vec![0; sizes.len()], vec![1; sizes.len()]);
                emit(graph, Slice { starts, steps, sizes }.into(), &[output])
            }
            _ => Ok(output),
        }
    }
}

fn emit(graph: &mut Graph, op: Op, operands: &[ValueId]) -> Result<ValueId> {
    let operands: Vec<_> = operands.iter().copied().map(Some).collect();
    Ok(graph.emit(Block::Forward, op, &operands, "", &"loss".into())?[0])
}

fn binary(op: &str) -> Op {
    Binary { op: op.into() }.into()
}

fn unary(op: &str) -> Op {
    Unary { op: op.into(), alpha: 0.0, beta: 0.0 }.into()
}

/// A value whose squared distance from another, which is zero, is `scale (sqrt(d^2 + c^2) - c)`. It is
/// `d sqrt(scale / (sqrt(d^2 + c^2) + c))`, which is smooth at 0.
fn root(graph: &mut Graph, output: ValueId, target: ValueId, c: f64, scale: f64) -> Result<(ValueId, ValueId)> {
    let ty = graph.ty(output).clone();
    let [square, own, factor] = [c * c, c, scale].map(|v| graph.add_scalar(ty.dtype, v));
    let d = emit(graph, binary("sub"), &[output, target])?;
    let d2 = emit(graph, binary("mul"), &[d, d])?;
    let sum = emit(graph, binary("add"), &[d2, square])?;
    let length = emit(graph, unary("sqrt"), &[sum])?;
    let longer = emit(graph, binary("add"), &[length, own])?;
    let share = emit(graph, binary("div"), &[factor, longer])?;
    let rate = emit(graph, unary("sqrt"), &[share])?;
    let y = emit(graph, binary("mul"), &[d, rate])?;
    let len = ty.shape.iter().product();
    let zero = match ty.dtype {
        DType::F64 => graph.add_const("c", ty.dtype, &ty.shape, &vec![0.0f64; len]),
        _ => graph.add_const("c", ty.dtype, &ty.shape, &vec![0.0f32; len]),
    };
    Ok((y, zero))
}

/// The square roots of the samples' weights, in a shape that stretches over a batch like `x`.
fn root_of_weight(graph: &mut Graph, x: ValueId) -> Result<ValueId> {
    let Type { dtype, shape, .. } = graph.ty(x).clone();
    let batch = shape.first().copied().unwrap_or(1);
    let weight = graph.add_value(WEIGHT, Type::new(dtype, &[batch]), Def::Arg(WEIGHT.to_owned()));
    let scale = emit(graph, unary("sqrt"), &[weight])?;
    let mut wide = vec![1; shape.len().max(1)];
    wide[0] = batch;
    emit(graph, Reshape { shape: wide }.into(), &[scale])
}
