//! Losses of classes: ONNX NegativeLogLikelihoodLoss (versions 12 to 22) and SoftmaxCrossEntropyLoss (12 to 13).

use super::{Gather, Reduce, Select, softmax};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::ValueId;
use sara_kernels::DType;

/// ONNX NegativeLogLikelihoodLoss.
pub(super) fn import_likelihood(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    likelihood(n, x).map(|y| vec![y])
}

/// ONNX SoftmaxCrossEntropyLoss. The second result is the logarithm of the probabilities.
pub(super) fn import_softmax(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    if n.ty(x).rank() < 2 {
        return Err(n.fail("needs at least two dimensions"));
    }
    let logs = softmax::logarithm(n, x, 1)?;
    Ok(vec![likelihood(n, logs)?, logs])
}

/// `-weight[c] * x[n, c, ...]` for the class `c` of each sample, reduced.
fn likelihood(n: &mut OnnxNode<'_, '_>, x: ValueId) -> Result<ValueId> {
    let shape = n.ty(x).shape.clone();
    let target = n.input(1)?;
    let fits = shape.len() >= 2 && n.ty(target).shape[..] == [&shape[..1], &shape[2..]].concat()[..];
    if !fits {
        let given = n.ty(target).clone();
        return Err(n.fail(format!("classes {given} do not fit scores of shape {shape:?}")));
    }
    let target = n.cast(target, DType::I64)?;
    let ignored = match n.has("ignore_index") {
        true => {
            let class = n.int("ignore_index", 0)?;
            let class = n.add_const(DType::I64, &[], &[class]);
            Some(n.binary("equal", target, class)?)
        }
        false => None,
    };
    let zero = n.scalar_like(x, 0.0)?;
    // What is ignored need not be a class.
    let class = match ignored {
        Some(ignored) => {
            let first = n.add_const(DType::I64, &[], &[0i64]);
            n.emit(Select {}, &[ignored, first, target])?
        }
        None => target,
    };
    let own = n.ty(target).shape.clone();
    let column = [&shape[..1], &[1], &shape[2..]].concat();
    let at = n.reshape(class, &column)?;
    let picked = super::index::gather_elements(n, x, at, 1)?;
    let picked = n.reshape(picked, &own)?;
    let mut loss = n.unary("neg", picked)?;
    let mut weight = match n.optional(2) {
        Some(weights) => Some(n.emit(Gather { axis: 0 }, &[weights, class])?),
        None => None,
    };
    if let Some(ignored) = ignored {
        let some = match weight {
            Some(weight) => weight,
            None => {
                let one = n.scalar_like(x, 1.0)?;
                n.expand(one, &own)?
            }
        };
        weight = Some(n.emit(Select {}, &[ignored, zero, some])?);
    }
    if let Some(weight) = weight {
        loss = n.binary("mul", loss, weight)?;
    }
    let all = |op: &str| Reduce { op: op.to_owned(), axes: (0..own.len()).collect(), keepdims: false };
    match (n.text("reduction", "mean")?.as_str(), weight) {
        ("none", _) => Ok(loss),
        ("sum", _) => n.emit(all("sum"), &[loss]),
        ("mean", None) => n.emit(all("mean"), &[loss]),
        ("mean", Some(weight)) => {
            let (sum, total) = (n.emit(all("sum"), &[loss])?, n.emit(all("sum"), &[weight])?);
            n.binary("div", sum, total)
        }
        (other, _) => Err(n.fail(format!("reduction `{other}` is not known"))),
    }
}
