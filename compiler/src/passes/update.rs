//! Update: accumulates each gradient into the training state, and writes the optimiser's step.

use crate::error::Result;
use crate::ir::verify::LOSS;
use crate::ir::{Block, Def, Graph, NodeId, State, Type, ValueId};
use crate::ops::{Accumulate, ClipNorm, SparseAdamW};
use sara_kernels::{DType, hyper};
use std::collections::HashMap;

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    let params: Vec<(ValueId, ValueId)> = graph
        .values()
        .filter_map(|(id, v)| match v.def {
            Def::Param(index) => Some((id, index)),
            _ => None,
        })
        .collect();
    let hyper = hyper_value(graph);
    // The returns after the loss are the gradients, in the order of the params.
    let first = graph.returns.iter().position(|r| r.0 == LOSS).map_or(graph.returns.len(), |i| i + 1);
    let gradients: HashMap<String, ValueId> = graph.returns.split_off(first).into_iter().collect();
    let mut sums: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    let mut states = Vec::new();
    for (param, index) in params {
        let name = graph.value(param).name.clone();
        let Some(gradient) = gradients.get(&format!("{name}.d")).copied() else { continue };
        let ty = graph.ty(param).clone();
        let mut state = |kind: State, suffix: &str| {
            graph.add_value(&format!("{name}.{suffix}"), ty.clone(), Def::State(kind, param))
        };
        let (g, m, v) = (state(State::Gradient, "g"), state(State::Moment1, "m"), state(State::Moment2, "v"));
        let inputs = [Some(gradient), Some(hyper), Some(g)];
        let (node, _) = graph.create(Accumulate { scale: hyper::GRADIENT_SCALE }.into(), &inputs, &name, &"".into())?;
        if let Def::Node(producer, _) = graph.value(gradient).def {
            sums.entry(producer).or_default().push(node);
        }
        states.push((index, param, m, v, g));
    }
    // A gradient is accumulated as soon as it exists, so that its memory is free again.
    let mut order = Vec::new();
    for id in graph.block(Block::Backward).to_vec() {
        order.push(id);
        order.extend(sums.remove(&id).unwrap_or_default());
    }
    graph.set_block(Block::Backward, order);
    if states.is_empty() {
        return Ok(());
    }
    let mut clip = vec![Some(hyper)];
    clip.extend(states.iter().map(|s| Some(s.4)));
    graph.emit(Block::Update, ClipNorm {}.into(), &clip, "", &"".into())?;
    for (index, param, m, v, g) in states {
        let Def::Index(weight, _) = graph.value(index).def else { continue };
        let inputs = [weight, index, param, m, v, g, hyper].map(Some);
        graph.emit(Block::Update, SparseAdamW {}.into(), &inputs, "", &"".into())?;
    }
    Ok(())
}

/// The hyper-parameters of a graph.
pub fn hyper_value(graph: &mut Graph) -> ValueId {
    let found = graph.values().find(|(_, v)| v.def == Def::Hyper).map(|(id, _)| id);
    found.unwrap_or_else(|| graph.add_value("hyper", Type::new(DType::F32, &[hyper::LEN]), Def::Hyper))
}
