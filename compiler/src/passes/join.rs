//! Join: gradients of neighbouring parts of a tensor become one part, instead of each being padded with zeros and added.

use crate::error::Result;
use crate::ir::{Block, Graph, NodeId, Rewriter, ValueId, rewrite};
use crate::ops::{Concat, Embed, Op};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    // Of three parts two are joined first.
    while rewrite(graph, join)? > 0 {}
    Ok(())
}

/// Embed(a) + Embed(b) = Embed(Concat(a, b)), or the concatenation itself where nothing is left to pad
fn join(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let (Op::Binary(add), [Some(left), Some(right)]) = (&node.op, node.inputs.as_slice()) else { return Ok(None) };
    if add.op != "add" || !r.graph.block(Block::Backward).contains(&id) || !r.used_once(*left) || !r.used_once(*right) {
        return Ok(None);
    }
    let (Some((a, first)), Some((b, second))) = (padded(r.graph, *left), padded(r.graph, *right)) else {
        return Ok(None);
    };
    let shapes = [r.graph.ty(a).shape.clone(), r.graph.ty(b).shape.clone()];
    if first.shape != second.shape {
        return Ok(None);
    }
    let Some((axis, swapped)) = neighbours([&first.starts, &second.starts], &shapes) else { return Ok(None) };
    let (parts, starts) = if swapped { ([b, a], second.starts) } else { ([a, b], first.starts) };
    let joined = r.emit(Concat { axis }, &parts)?;
    if r.graph.ty(joined).shape == first.shape {
        return Ok(Some(vec![joined]));
    }
    r.emit(Embed { starts, ..first }, &[joined]).map(|y| Some(vec![y]))
}

/// What `value` pads with zeros.
fn padded(graph: &Graph, value: ValueId) -> Option<(ValueId, Embed)> {
    let node = graph.producer(value)?;
    match &node.op {
        Op::Embed(op) if op.value == 0.0 && op.steps.iter().all(|s| *s == 1) => Some((node.inputs[0]?, op.clone())),
        _ => None,
    }
}

/// The axis along which two boxes of these shapes touch and beside which they agree, and whether the second comes first.
fn neighbours(starts: [&[i64]; 2], shapes: &[Vec<usize>; 2]) -> Option<(usize, bool)> {
    let differ = |d: &usize| starts[0][*d] != starts[1][*d] || shapes[0][*d] != shapes[1][*d];
    let mut differing = (0..shapes[0].len()).filter(differ);
    let (axis, None) = (differing.next()?, differing.next()) else { return None };
    let end = |i: usize| starts[i][axis] + shapes[i][axis] as i64;
    match (end(0) == starts[1][axis], end(1) == starts[0][axis]) {
        (true, _) => Some((axis, false)),
        (_, true) => Some((axis, true)),
        _ => None,
    }
}
