//! Fold: equal nodes become one (common subexpressions), views of views become one, and what nobody needs goes.
//!
//! Constants are computed at import, where shape arithmetic needs them.

use crate::error::Result;
use crate::ir::{Block, Graph, NodeId, Payload, Rewriter, ValueId, rewrite};
use crate::ops::{Op, Reshape};
use std::collections::HashMap;

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    rewrite(graph, view_of_view)?;
    rewrite(graph, no_effect)?;
    share(graph);
    Ok(())
}

/// Reshape(Reshape(x)) = Reshape(x)
fn view_of_view(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let (Op::Reshape(outer), Some(inner)) = (&node.op, node.inputs[0]) else { return Ok(None) };
    let shape = outer.shape.clone();
    let Some(producer) = r.graph.producer(inner).filter(|p| matches!(p.op, Op::Reshape(_))) else { return Ok(None) };
    let Some(source) = producer.inputs[0] else { return Ok(None) };
    r.emit(Reshape { shape }, &[source]).map(|y| Some(vec![y]))
}

/// Reshape and Expand to the same shape, Transpose that moves nothing, Cast to the same type, x * 1, x / 1, x + 0 = x
fn no_effect(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let Some(x) = node.inputs.first().copied().flatten() else { return Ok(None) };
    let Some(&y) = node.outputs.first() else { return Ok(None) };
    let same = r.graph.ty(x) == r.graph.ty(y);
    let scalar = |i: usize| node.inputs.get(i).copied().flatten().and_then(|v| r.graph.scalar(v));
    let idle = match &node.op {
        Op::Reshape(_) | Op::Expand(_) | Op::Cast(_) => same,
        Op::Transpose(t) => t.perm.is_sorted(),
        Op::Binary(b) => {
            same && matches!((b.op.as_str(), scalar(1)), ("mul" | "div", Some(1.0)) | ("add" | "sub", Some(0.0)))
        }
        _ => false,
    };
    if idle {
        return Ok(Some(vec![x]));
    }
    // 1 * x, 0 + x = x
    if let Op::Binary(b) = &node.op
        && let Some(x) = node.inputs[1]
        && r.graph.ty(x) == r.graph.ty(y)
        && matches!((b.op.as_str(), scalar(0)), ("mul", Some(1.0)) | ("add", Some(0.0)))
    {
        return Ok(Some(vec![x]));
    }
    Ok(None)
}

/// Common subexpressions, within a block: nodes with the same operator, attributes and operands are one.
pub fn share(graph: &mut Graph) {
    let mut same: HashMap<ValueId, ValueId> = HashMap::new();
    let mut constants: HashMap<(String, u64), ValueId> = HashMap::new();
    let leaves: Vec<(ValueId, String, u64)> = graph
        .values()
        .filter_map(|(id, v)| match &v.def {
            crate::ir::Def::Const(payload @ Payload::Known(_)) => Some((id, v.ty.to_string(), payload.hash())),
            _ => None,
        })
        .collect();
    for (id, ty, hash) in leaves {
        let first = *constants.entry((ty, hash)).or_insert(id);
        if first != id && graph.value(first).def == graph.value(id).def {
            same.insert(id, first);
        }
    }
    for block in Block::ALL {
        let mut seen: HashMap<String, NodeId> = HashMap::new();
        let mut kept = Vec::new();
        for id in graph.block(block).to_vec() {
            let node = graph.node(id);
            let operands: Vec<Option<ValueId>> =
                node.inputs.iter().map(|v| v.map(|v| same.get(&v).copied().unwrap_or(v))).collect();
            let key = format!("{:?}{operands:?}", node.op);
            match seen.get(&key) {
                Some(first) if !node.outputs.is_empty() => {
                    for (old, new) in node.outputs.iter().zip(&graph.node(*first).outputs) {
                        same.insert(*old, *new);
                    }
                }
                _ => {
                    seen.insert(key, id);
                    kept.push(id);
                }
            }
        }
        graph.set_block(block, kept);
    }
    graph.map_uses(|v| same.get(&v).copied().unwrap_or(v));
    graph.remove_dead();
}
