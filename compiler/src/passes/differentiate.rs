//! Differentiate: adds the loss and, in reverse program order, the gradients of what trains.
//!
//! Operators give one gradient for each wanted operand; sums over several uses and over broadcast dimensions are made here.

use crate::autodiff::Grad;
use crate::error::{Error, Result};
use crate::ir::{Block, Def, Graph, NodeId, ValueId};
use crate::loss::Loss;
use crate::ops::Binary;
use std::collections::{HashMap, HashSet};

/// Suffix of the values that hold gradients.
const SUFFIX: &str = ".d";

/// Runs the pass for the params of sparse weights. Their gradients become returns called after the params until the update pass
/// takes them.
pub fn run(graph: &mut Graph, loss: Loss) -> Result<()> {
    let params: Vec<ValueId> =
        graph.values().filter(|(_, v)| matches!(v.def, Def::Param(_))).map(|(id, _)| id).collect();
    let loss = loss.add(graph)?;
    let used = graph.use_counts();
    for (param, gradient) in gradients(graph, loss, &params)? {
        match gradient {
            Some(gradient) => {
                let name = format!("{}{SUFFIX}", graph.value(param).name);
                graph.returns.push((name, gradient));
            }
            None if used[param.0 as usize] > 0 => {
                let name = graph.value(param).name.clone();
                return Err(Error::Option(format!("the loss does not depend on `{name}`; exclude it with --exclude")));
            }
            None => {}
        }
    }
    super::fold::share(graph);
    Ok(())
}

/// Appends the gradients of `loss` with respect to `wanted` to the backward block. A value that the loss does not depend on has
/// none.
pub fn gradients(graph: &mut Graph, loss: ValueId, wanted: &[ValueId]) -> Result<Vec<(ValueId, Option<ValueId>)>> {
    let forward: Vec<NodeId> = graph.block(Block::Forward).to_vec();
    // What depends on a wanted value needs a gradient itself.
    let mut needed: HashSet<ValueId> = wanted.iter().copied().collect();
    for id in &forward {
        let node = graph.node(*id);
        if node.inputs.iter().flatten().any(|v| needed.contains(v)) {
            needed.extend(node.outputs.iter().copied());
        }
    }
    let mut gradient: HashMap<ValueId, ValueId> = HashMap::new();
    for id in forward.into_iter().rev() {
        let node = graph.node(id).clone();
        let Some(&output) = node.outputs.first() else { continue };
        // The loss is a scalar whose gradient is 1, which MseLoss takes for granted.
        let dy = if output == loss {
            loss
        } else if let Some(dy) = gradient.get(&output) {
            *dy
        } else {
            continue;
        };
        for (slot, input) in node.inputs.iter().enumerate() {
            let Some(input) = input.filter(|v| needed.contains(v)) else { continue };
            let name = format!("{}{SUFFIX}", graph.value(input).name);
            let shape = graph.ty(input).shape.clone();
            let mut g = Grad::new(graph, id, dy, name.clone());
            let Some(part) = node.op.grad(&mut g, slot)? else { continue };
            let part = g.unbroadcast(part, &shape)?;
            let sum = match gradient.get(&input) {
                None => part,
                Some(so_far) => {
                    let add = Binary { op: "add".into() };
                    graph.emit(Block::Backward, add.into(), &[Some(*so_far), Some(part)], &name, &node.origin)?[0]
                }
            };
            gradient.insert(input, sum);
        }
    }
    Ok(wanted.iter().map(|v| (*v, gradient.get(v).copied())).collect())
}
