//! The verifier: rules that hold after every pass. Always on.
//!
//! - **V01** Every operand is defined earlier in program order; every value is defined once.
//! - **V02** Blocks keep to their direction: forward reads nothing of backward or update, backward nothing of update.
//! - **V03** The stored types of results equal the inferred ones.
//! - **V04** Names are unique, and `print(parse(print(g))) = print(g)`.
//! - **V05** Only the update block and `Accumulate` act on state; nothing else has no results.
//! - **V06** From `sparse` on: each param has one index, each index one weight of type `f32`; positions are strictly ascending
//!   and inside the weight; index, param and state have one length.
//! - **V07** From `sparse` on: a weight that has an index is read only by its `SparseDelta` and by the update.
//! - **V08** From `differentiated` on: there is one loss, a scalar.
//! - **V09** From `differentiated` on: each param that forward uses has exactly one gradient, which is accumulated into its
//!   state.
//! - **V10** From `fused` on: no dense gradient of a sparse weight exists: a `Take` never reads, directly or through views,
//!   sums and scalings, what a matrix product or convolution made.

use super::{Block, Def, Graph, NodeId, Stage, Type, ValueId};
use crate::error::{Error, Result};
use crate::ops::Op;
use std::collections::{HashMap, HashSet};

/// Name of the loss among the returns.
pub const LOSS: &str = "loss";

/// Checks all rules of the graph's stage. `pass` is named in the error.
pub fn verify(graph: &Graph, pass: &str) -> Result<()> {
    let broken = |(rule, reason): (&'static str, String)| Error::Verify { rule, pass: pass.to_owned(), reason };
    definitions(graph).map_err(broken)?;
    types(graph).map_err(broken)?;
    effects(graph).map_err(broken)?;
    if graph.stage >= Stage::Sparse {
        sparse(graph).map_err(broken)?;
    }
    if graph.stage >= Stage::Differentiated {
        gradients(graph).map_err(broken)?;
    }
    if graph.stage >= Stage::Fused {
        no_dense_gradient(graph).map_err(broken)?;
    }
    text(graph).map_err(broken)
}

type Check = std::result::Result<(), (&'static str, String)>;

fn name(graph: &Graph, value: ValueId) -> String {
    format!("`%{}`", graph.value(value).name)
}

fn definitions(graph: &Graph) -> Check {
    let mut made: HashMap<ValueId, Block> = HashMap::new();
    for block in Block::ALL {
        for id in graph.block(block) {
            let node = graph.node(*id);
            for input in node.inputs.iter().flatten() {
                if !matches!(graph.value(*input).def, Def::Node(..)) {
                    continue;
                }
                match made.get(input) {
                    None => return Err(("V01", format!("{} is read before it is defined", name(graph, *input)))),
                    Some(from) if *from > block => {
                        return Err((
                            "V02",
                            format!("{} of {} is read in {}", name(graph, *input), from.name(), block.name()),
                        ));
                    }
                    Some(_) => {}
                }
            }
            for (slot, output) in node.outputs.iter().enumerate() {
                if graph.value(*output).def != Def::Node(*id, slot) || made.insert(*output, block).is_some() {
                    return Err(("V01", format!("{} is defined twice", name(graph, *output))));
                }
            }
        }
    }
    for (_, value) in &graph.returns {
        if matches!(graph.value(*value).def, Def::Node(..)) && !made.contains_key(value) {
            return Err(("V01", format!("{} is returned and never defined", name(graph, *value))));
        }
    }
    Ok(())
}

fn types(graph: &Graph) -> Check {
    for id in graph.program() {
        let node = graph.node(id);
        let inputs: Vec<Option<&Type>> = node.inputs.iter().map(|i| i.map(|v| graph.ty(v))).collect();
        let inferred =
            node.op.infer(&inputs).map_err(|e| ("V03", format!("{}: {e}", super::display_node(graph, id))))?;
        let stored: Vec<&Type> = node.outputs.iter().map(|v| graph.ty(*v)).collect();
        if inferred.iter().collect::<Vec<_>>() != stored {
            return Err(("V03", format!("{} should give {inferred:?}", super::display_node(graph, id))));
        }
    }
    Ok(())
}

fn effects(graph: &Graph) -> Check {
    for block in [Block::Forward, Block::Backward] {
        for id in graph.block(block) {
            let node = graph.node(*id);
            let accumulate = block == Block::Backward && matches!(node.op, Op::Accumulate(_));
            if node.outputs.is_empty() && !accumulate {
                return Err(("V05", format!("{} acts on state in {}", super::display_node(graph, *id), block.name())));
            }
        }
    }
    Ok(())
}

fn sparse(graph: &Graph) -> Check {
    let mut indexed: HashSet<ValueId> = HashSet::new();
    for (id, value) in graph.values() {
        match &value.def {
            Def::Index(weight, payload) => {
                let w = graph.value(*weight);
                let host = matches!(w.def, Def::Weight(_)) && w.ty.dtype == sara_kernels::DType::F32;
                if !host || !indexed.insert(*weight) {
                    return Err(("V06", format!("{} needs an f32 weight of its own", name(graph, id))));
                }
                if let Some(positions) = payload.elements::<u32>() {
                    let inside = positions.last().is_none_or(|p| (*p as usize) < w.ty.len());
                    if !positions.is_sorted_by(|a, b| a < b) || !inside || positions.len() != value.ty.len() {
                        return Err((
                            "V06",
                            format!(
                                "{} is not a list of ascending positions in {}",
                                name(graph, id),
                                name(graph, *weight)
                            ),
                        ));
                    }
                }
            }
            Def::Param(of) | Def::State(_, of) => {
                let same = graph.ty(*of).shape == value.ty.shape;
                let right = match graph.value(*of).def {
                    Def::Index(..) => matches!(value.def, Def::Param(_)),
                    Def::Param(_) => matches!(value.def, Def::State(..)),
                    _ => false,
                };
                if !same || !right {
                    return Err(("V06", format!("{} does not belong to {}", name(graph, id), name(graph, *of))));
                }
            }
            _ => {}
        }
    }
    for block in [Block::Forward, Block::Backward] {
        for id in graph.block(block) {
            let node = graph.node(*id);
            let reads = node.inputs.iter().flatten().find(|v| indexed.contains(v));
            if let Some(weight) = reads.filter(|_| !matches!(node.op, Op::SparseDelta(_))) {
                return Err((
                    "V07",
                    format!(
                        "{} reads {} without its trained entries",
                        super::display_node(graph, *id),
                        name(graph, *weight)
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn gradients(graph: &Graph) -> Check {
    let losses: Vec<ValueId> = graph.returns.iter().filter(|r| r.0 == LOSS).map(|r| r.1).collect();
    if losses.len() != 1 || graph.ty(losses[0]).rank() != 0 {
        return Err(("V08", format!("there are {} losses; one scalar is needed", losses.len())));
    }
    if graph.block(Block::Backward).is_empty() {
        return Ok(());
    }
    let mut sums: HashMap<ValueId, usize> = HashMap::new();
    for id in graph.block(Block::Backward) {
        let node = graph.node(*id);
        if let (Op::Accumulate(_), Some(Some(state))) = (&node.op, node.inputs.get(2)) {
            *sums.entry(*state).or_default() += 1;
        }
    }
    for id in graph.block(Block::Forward) {
        let node = graph.node(*id);
        let (Op::SparseDelta(_), Some(Some(param))) = (&node.op, node.inputs.get(2)) else { continue };
        let states = graph.values().filter(|(_, v)| v.def == Def::State(super::State::Gradient, *param));
        let count: usize = states.map(|(id, _)| sums.get(&id).copied().unwrap_or(0)).sum();
        if count != 1 {
            return Err(("V09", format!("{} has {count} gradients", name(graph, *param))));
        }
    }
    Ok(())
}

fn no_dense_gradient(graph: &Graph) -> Check {
    for id in graph.block(Block::Backward) {
        let node = graph.node(*id);
        let (Op::Take(_), Some(Some(source))) = (&node.op, node.inputs.first()) else { continue };
        if let Some(product) = dense_product(graph, *source) {
            let line = super::display_node(graph, product);
            return Err(("V10", format!("{line} is a dense gradient, read by {}", super::display_node(graph, *id))));
        }
    }
    Ok(())
}

/// The product that `value` is, seen through views, sums and scalings.
fn dense_product(graph: &Graph, value: ValueId) -> Option<NodeId> {
    let Def::Node(id, _) = graph.value(value).def else { return None };
    let node = graph.node(id);
    match &node.op {
        Op::MatMul(_) | Op::ConvGradWeight(_) | Op::Conv(_) | Op::ConvGradInput(_) => Some(id),
        Op::Reshape(_) | Op::Transpose(_) | Op::Cast(_) | Op::Binary(_) | Op::Reduce(_) | Op::Embed(_) => {
            node.inputs.iter().flatten().find_map(|v| dense_product(graph, *v))
        }
        _ => None,
    }
}

fn text(graph: &Graph) -> Check {
    let mut names = HashSet::new();
    if let Some((_, value)) = graph.values().find(|(_, v)| !names.insert(v.name.as_str())) {
        return Err(("V04", format!("two values are called `%{}`", value.name)));
    }
    let printed = graph.to_string();
    match super::parse(&printed) {
        Err(error) => Err(("V04", format!("the text form does not parse: {error}"))),
        Ok(parsed) => {
            let again = parsed.to_string();
            match printed.lines().zip(again.lines()).find(|(a, b)| a != b) {
                Some((a, b)) => Err(("V04", format!("`{a}` prints as `{b}` after parsing"))),
                None => Ok(()),
            }
        }
    }
}
