//! Softmax from primitives.

use super::{binary, made_by, unary};
use crate::error::Result;
use crate::ir::{Graph, NodeId, Rewriter, ValueId};
use crate::ops::{Op, Reduce, Softmax};

/// exp(x) / sum(exp(x)) = softmax(x), where x may have lost its maximum
pub(super) fn softmax(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let Some([exp, sum]) = binary(r.graph, id, "div") else { return Ok(None) };
    let (Some(mut x), Some((source, axis))) = (unary(r.graph, exp, "exp"), along(r.graph, sum, "sum")) else {
        return Ok(None);
    };
    if source != exp {
        return Ok(None);
    }
    if let Some([whole, most]) = made_by(r.graph, x, "sub")
        && along(r.graph, most, "max") == Some((whole, axis))
    {
        x = whole;
    }
    r.emit(Softmax { axis }, &[x]).map(|y| Some(vec![y]))
}

/// What `value` reduces with `op` along the one axis that is returned, which it keeps.
fn along(graph: &Graph, value: ValueId, op: &str) -> Option<(ValueId, usize)> {
    let node = graph.producer(value)?;
    match &node.op {
        Op::Reduce(Reduce { op: found, axes, keepdims: true }) if found == op && axes.len() == 1 => {
            Some((node.inputs[0]?, axes[0]))
        }
        _ => None,
    }
}
