//! Sparsify: gives each chosen weight its index and values, and puts `SparseDelta` between the weight and its users.

use crate::error::Result;
use crate::ir::{Block, Def, Graph, Payload, Type, ValueId};
use crate::ops::SparseDelta;
use crate::select::Chosen;
use sara_kernels::DType;
use std::collections::HashMap;

/// Runs the pass.
pub fn run(graph: &mut Graph, chosen: &Chosen) -> Result<()> {
    let weights: Vec<(ValueId, usize)> = graph
        .values()
        .filter_map(|(id, v)| match v.def {
            Def::Weight(w) => Some((id, w)),
            _ => None,
        })
        .collect();
    let mut pending: HashMap<ValueId, [ValueId; 2]> = HashMap::new();
    for (value, weight) in weights {
        let Some(positions) = chosen.index.get(&weight).filter(|i| !i.is_empty()) else { continue };
        let name = graph.value(value).name.clone();
        let shape = [positions.len()];
        let data = Payload::Known(bytemuck::cast_slice(positions).into());
        let index = graph.add_value(&format!("{name}.idx"), Type::new(DType::U32, &shape), Def::Index(value, data));
        let param = graph.add_value(&format!("{name}.p"), Type::new(DType::F32, &shape), Def::Param(index));
        pending.insert(value, [index, param]);
    }
    // Each delta stands right before the first use of its weight.
    let mut made: HashMap<ValueId, ValueId> = HashMap::new();
    let mut order = Vec::new();
    for id in graph.block(Block::Forward).to_vec() {
        for slot in 0..graph.node(id).inputs.len() {
            let Some(weight) = graph.node(id).inputs[slot] else { continue };
            let Some([index, param]) = pending.get(&weight).copied() else { continue };
            let delta = match made.get(&weight) {
                Some(delta) => *delta,
                None => {
                    let name = format!("{}.s", graph.value(weight).name);
                    let inputs = [Some(weight), Some(index), Some(param)];
                    let origin = graph.node(id).origin.clone();
                    let (node, outputs) = graph.create(SparseDelta {}.into(), &inputs, &name, &origin)?;
                    order.push(node);
                    made.insert(weight, outputs[0]);
                    outputs[0]
                }
            };
            graph.set_input(id, slot, delta);
        }
        order.push(id);
    }
    graph.set_block(Block::Forward, order);
    Ok(())
}
