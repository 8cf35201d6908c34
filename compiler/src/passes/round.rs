//! Round: what only products read is made in bfloat16, and what gated units read, which products are made for.
//!
//! A value is rounded by the operator that makes it if that operator can and all of its readers take it so ([`Rounded`]).
//! Products round such operands anyway; gated units, masked gradients and transforms of convolutions lose what is below the
//! rounding. Readers in the backward of what the forward makes take it in any case: `keep` rounds what they read, and widens it
//! where they cannot. In fp16 nothing is rounded so, because its products are of single precision.

use super::Context;
use super::keep::{LARGE, memories};
use crate::compile::Precision;
use crate::error::Result;
use crate::ir::{Block, Graph, NodeId, Type, ValueId};
use crate::ops::{Op, Rounded};
use sara_kernels::DType;
use std::collections::HashSet;

/// Runs the pass.
pub fn run(graph: &mut Graph, context: &Context<'_>) -> Result<()> {
    if context.precision != Precision::Bf16 {
        return Ok(());
    }
    let nodes: Vec<(Block, NodeId)> = [Block::Forward, Block::Backward]
        .into_iter()
        .flat_map(|block| graph.block(block).iter().map(move |id| (block, *id)))
        .collect();
    let order: Vec<NodeId> = nodes.iter().map(|(_, id)| *id).collect();
    let memory = memories(graph, &order);
    let forward: HashSet<ValueId> =
        graph.block(Block::Forward).iter().flat_map(|id| graph.node(*id).outputs.clone()).collect();
    let returned: HashSet<ValueId> = graph.returns.iter().filter_map(|r| memory.get(&r.1).copied()).collect();
    let mut exact = returned.clone();
    let large = |graph: &Graph, of: ValueId| graph.ty(of).dtype == DType::F32 && graph.ty(of).len() >= LARGE;
    // From the last node on: a reader that gives the type it takes is asked for what its own readers take.
    for (block, id) in nodes.iter().rev() {
        let node = graph.node(*id);
        if matches!(node.op, Op::Reshape(_)) {
            continue;
        }
        let rounded = rounded(graph, *id);
        for (slot, value) in node.inputs.iter().enumerate() {
            let Some(of) = value.and_then(|v| memory.get(&v).copied()) else { continue };
            let widened = *block == Block::Backward && forward.contains(&of);
            let passed_on =
                slot == 0 && rounded.same && !exact.contains(&node.outputs[0]) && large(graph, node.outputs[0]);
            if !widened && !passed_on && !rounded.operands.contains(&slot) {
                exact.insert(of);
            }
        }
    }
    let mut chosen: HashSet<ValueId> = HashSet::new();
    for (block, id) in &nodes {
        let node = graph.node(*id);
        if matches!(node.op, Op::Reshape(_)) {
            continue;
        }
        let rounded = rounded(graph, *id);
        for (slot, output) in node.outputs.iter().enumerate() {
            let passed_on = || {
                let of = node.inputs[0].and_then(|v| memory.get(&v).copied());
                of.is_some_and(|of| {
                    let kept = *block == Block::Backward && forward.contains(&of) && large(graph, of);
                    chosen.contains(&of) || kept && !returned.contains(&of)
                })
            };
            let gives = rounded.results.contains(&slot) || slot == 0 && rounded.same && passed_on();
            if gives && large(graph, *output) && !exact.contains(output) {
                chosen.insert(*output);
            }
        }
    }
    for (value, of) in memory {
        if chosen.contains(&of) {
            graph.set_dtype(value, DType::Bf16);
        }
    }
    Ok(())
}

/// What of a node may be rounded.
fn rounded(graph: &Graph, id: NodeId) -> Rounded {
    let node = graph.node(id);
    let inputs: Vec<Option<&Type>> = node.inputs.iter().map(|i| i.map(|v| graph.ty(v))).collect();
    node.op.rounded(&inputs)
}
