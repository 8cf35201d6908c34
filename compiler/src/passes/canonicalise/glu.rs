//! Gated linear units.

use super::{binary, inner};
use crate::error::Result;
use crate::ir::{Graph, NodeId, Rewriter, ValueId};
use crate::ops::{Glu, Op};

/// a * op(b) = glu(x), where a and b are the halves of x
pub(super) fn glu(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let Some([a, b]) = binary(r.graph, id, "mul") else { return Ok(None) };
    for (value, activated) in [(a, b), (b, a)] {
        let Some(node) = r.graph.producer(activated) else { continue };
        let (Op::Unary(function), [Some(gate)]) = (&node.op, node.inputs.as_slice()) else { continue };
        let (Some(first), Some(second)) = (half(r.graph, value), half(r.graph, *gate)) else { continue };
        let halves = first.0 == second.0 && first.1 == second.1 && first.2 != second.2;
        if halves && [value, activated, *gate].into_iter().all(|v| inner(r, v)) {
            let (x, axis, gate) = second;
            let glu = Glu { op: function.op.clone(), alpha: function.alpha, beta: function.beta, axis, gate };
            return r.emit(glu, &[x]).map(|y| Some(vec![y]));
        }
    }
    Ok(None)
}

/// The tensor that `value` is half of, the axis along which it was cut, and which half it is.
fn half(graph: &Graph, value: ValueId) -> Option<(ValueId, usize, usize)> {
    let node = graph.producer(value)?;
    let (Op::Slice(slice), Some(x)) = (&node.op, node.inputs[0]) else { return None };
    let shape = &graph.ty(x).shape;
    let mut cut = (0..shape.len()).filter(|d| slice.sizes[*d] != shape[*d]);
    let (axis, None) = (cut.next()?, cut.next()) else { return None };
    let size = slice.sizes[axis];
    let start = slice.starts[axis] as usize;
    let found = graph.ty(x).dtype.is_float() && slice.steps.iter().all(|s| *s == 1);
    (found && shape[axis] == 2 * size && start.is_multiple_of(size)).then(|| (x, axis, start / size))
}
