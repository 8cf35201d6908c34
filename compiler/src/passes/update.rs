//! Update: accumulates each gradient into the training state, and writes the optimiser's step.

use crate::error::Result;
use crate::ir::verify::LOSS;
use crate::ir::{Block, Def, Graph, NodeId, State, Type, ValueId};
use crate::ops::{Accumulate, ClipNorm, SparseAdamW};
use sara_kernels::sparse_adamw_8bit::BLOCK;
use sara_kernels::{DType, hyper};
use std::collections::HashMap;

/// Runs the pass. Moments are in single precision, or a byte each with the largest magnitude of each block.
pub fn run(graph: &mut Graph, use_8bit_adam: bool) -> Result<()> {
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
        let mut state = |kind: State, suffix: &str, ty: &Type| {
            graph.add_value(&format!("{name}.{suffix}"), ty.clone(), Def::State(kind, param))
        };
        let moment = if use_8bit_adam { Type::new(DType::U8, &ty.shape) } else { ty.clone() };
        let g = state(State::Gradient, "g", &ty);
        let (m, v) = (state(State::Moment1, "m", &moment), state(State::Moment2, "v", &moment));
        let absmax = use_8bit_adam.then(|| {
            let blocks = Type::new(DType::F32, &[ty.len().div_ceil(BLOCK)]);
            [state(State::Absmax1, "m_absmax", &blocks), state(State::Absmax2, "v_absmax", &blocks)]
        });
        let inputs = [Some(gradient), Some(hyper), Some(g)];
        let (node, _) = graph.create(Accumulate { scale: hyper::GRADIENT_SCALE }.into(), &inputs, &name, &"".into())?;
        if let Def::Node(producer, _) = graph.value(gradient).def {
            sums.entry(producer).or_default().push(node);
        }
        states.push((index, [param, m, v, g], absmax));
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
    clip.extend(states.iter().map(|(_, [.., g], _)| Some(*g)));
    graph.emit(Block::Update, ClipNorm {}.into(), &clip, "", &"".into())?;
    for (index, [param, m, v, g], absmax) in states {
        let Def::Index(weight, _) = graph.value(index).def else { continue };
        let inputs = [weight, index, param, m, v, g, hyper].into_iter().chain(absmax.into_iter().flatten());
        let inputs: Vec<_> = inputs.map(Some).collect();
        graph.emit(Block::Update, SparseAdamW {}.into(), &inputs, "", &"".into())?;
    }
    Ok(())
}

/// The hyper-parameters of a graph.
pub fn hyper_value(graph: &mut Graph) -> ValueId {
    let found = graph.values().find(|(_, v)| v.def == Def::Hyper).map(|(id, _)| id);
    found.unwrap_or_else(|| graph.add_value("hyper", Type::new(DType::F32, &[hyper::LEN]), Def::Hyper))
}
