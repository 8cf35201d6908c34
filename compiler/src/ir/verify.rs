//! The verifier: rules that hold after every pass. Always on.
//!
//! - **V01** Every operand is defined earlier in program order; every value is defined once.
//! - **V02** Blocks keep to their direction: forward reads nothing of backward or update, backward nothing of update,
//!   and only backward computes anything again.
//! - **V03** The stored types of results equal the inferred ones, or are bfloat16 in place of single precision where the operator says
//!   that they may, as operands do.
//! - **V04** Names are unique, and `print(parse(print(g))) = print(g)`.
//! - **V05** Only the update block and `Accumulate` act on state; nothing else has no results.
//! - **V06** From `sparse` on: each param has one index, each index one weight of type `f32`, `bf16` or `f16`; positions are strictly ascending
//!   and inside the weight; index, param and state have one length. One value stands for each entry of the weight table, and
//!   what a node reads together belongs together: the index is of the weight, the param at the index, the state of the param.
//! - **V07** From `sparse` on: a weight that has an index is read only by its `SparseDelta` and by the update; its file only by
//!   `Fetch`, with the index.
//! - **V08** From `differentiated` on: there is one loss, a scalar.
//! - **V09** From `differentiated` on: each param that forward uses has exactly one gradient, which is accumulated into its
//!   state.
//! - **V10** From `fused` on: no dense gradient of a matrix exists. A sparse weight is a matrix if a product or convolution of
//!   forward multiplies by it or by what is made of it and of other parameters only ([`super::uses`]); a `Take` at its index reads
//!   nothing that a node computes. Exempt are vectors, tables and elementwise parameters, which no product multiplies by: their
//!   gradient is no product, and a value of their own size is the least that holds it.

use super::{Block, Def, Graph, NodeId, Stage, State, Type, ValueId};
use crate::error::{Error, Result};
use crate::ops::Op;
use sara_kernels::DType;
use sara_kernels::sparse_adamw_8bit::BLOCK;
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
            if node.again && block != Block::Backward {
                return Err(("V02", format!("{} is in {}", super::display_node(graph, *id), block.name())));
            }
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
        let rounded = node.op.rounded(&inputs);
        let operands: Vec<Option<Type>> =
            inputs.iter().enumerate().map(|(slot, ty)| ty.map(|ty| rounded.stands_for(slot, ty))).collect();
        let operands: Vec<Option<&Type>> = operands.iter().map(Option::as_ref).collect();
        let inferred =
            node.op.infer(&operands).map_err(|e| ("V03", format!("{}: {e}", super::display_node(graph, id))))?;
        let fits = |(slot, (inferred, stored)): (usize, (&Type, &ValueId))| {
            let stored = graph.ty(*stored);
            let may = rounded.results.contains(&slot) && inferred.dtype == DType::F32;
            inferred == stored || may && inferred.with_dtype(DType::Bf16) == *stored
        };
        if inferred.len() != node.outputs.len() || !inferred.iter().zip(&node.outputs).enumerate().all(fits) {
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
    let mut weights: HashSet<usize> = HashSet::new();
    for (id, value) in graph.values() {
        match &value.def {
            Def::Weight(weight) if !weights.insert(*weight) => {
                return Err(("V06", format!("{} is a second value of its weight", name(graph, id))));
            }
            Def::File(of) if !matches!(graph.value(*of).def, Def::Weight(_)) || value.ty.dtype != DType::U8 => {
                return Err(("V06", format!("{} is not the bytes of a weight", name(graph, id))));
            }
            Def::Index(weight, payload) => {
                let w = graph.value(*weight);
                let host = matches!(w.def, Def::Weight(_)) && w.ty.dtype.computed() == DType::F32;
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
                let same = match value.def {
                    Def::State(State::Absmax1 | State::Absmax2, _) => {
                        value.ty.shape == [graph.ty(*of).len().div_ceil(BLOCK)]
                    }
                    _ => value.ty.shape == graph.ty(*of).shape,
                };
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
    for id in graph.program() {
        if !together(graph, id) {
            return Err(("V06", format!("{} reads what does not belong together", super::display_node(graph, id))));
        }
    }
    for block in [Block::Forward, Block::Backward] {
        for id in graph.block(block) {
            let node = graph.node(*id);
            let bare = match node.op {
                Op::SparseDelta(_) => continue,
                Op::Fetch(_) => node.inputs.len() == 1,
                _ => true,
            };
            let weight = |v: &ValueId| if let Def::File(of) = graph.value(*v).def { of } else { *v };
            let mut reads = node.inputs.iter().flatten().map(weight);
            if let Some(weight) = reads.find(|v| bare && indexed.contains(v)) {
                return Err((
                    "V07",
                    format!(
                        "{} reads {} without its trained entries",
                        super::display_node(graph, *id),
                        name(graph, weight)
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Whether the weights, indices, params and states that a node reads belong to each other.
fn together(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let weight = |w: ValueId| matches!(graph.value(w).def, Def::Weight(_));
    let index = |i: ValueId, w: ValueId| matches!(graph.value(i).def, Def::Index(of, _) if of == w);
    let param = |p: ValueId, i: ValueId| graph.value(p).def == Def::Param(i);
    let state = |s: ValueId, kind: State, p: ValueId| graph.value(s).def == Def::State(kind, p);
    match (&node.op, node.inputs.as_slice()) {
        (Op::SparseDelta(_), [Some(w), Some(i), Some(p)]) => weight(*w) && index(*i, *w) && param(*p, *i),
        (Op::LowRank(_), [Some(i), Some(p)]) => param(*p, *i),
        (Op::Accumulate(_), [_, _, Some(g)]) => matches!(graph.value(*g).def, Def::State(State::Gradient, _)),
        (Op::ClipNorm(_), [_, gradients @ ..]) => {
            gradients.iter().flatten().all(|g| matches!(graph.value(*g).def, Def::State(State::Gradient, _)))
        }
        (Op::Fetch(_), [Some(file), Some(i), Some(p)]) => {
            let of = |w: ValueId| graph.value(*file).def == Def::File(w);
            matches!(graph.value(*i).def, Def::Index(w, _) if of(w)) && param(*p, *i)
        }
        (Op::SparseAdamW(_), [w, Some(i), Some(p), Some(m), Some(v), Some(g), _, absmax @ ..]) => {
            let kinds = [State::Absmax1, State::Absmax2];
            w.is_none_or(|w| index(*i, w))
                && param(*p, *i)
                && state(*m, State::Moment1, *p)
                && state(*v, State::Moment2, *p)
                && state(*g, State::Gradient, *p)
                && absmax.iter().flatten().zip(kinds).all(|(a, kind)| state(*a, kind, *p))
        }
        _ => true,
    }
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
        if let (Op::Accumulate(_), Some(Some(state))) = (&node.op, node.inputs.get(2))
            && let Def::State(State::Gradient, param) = graph.value(*state).def
        {
            *sums.entry(param).or_default() += 1;
        }
    }
    for id in graph.block(Block::Forward) {
        let node = graph.node(*id);
        let (Op::SparseDelta(_) | Op::Fetch(_), Some(Some(param))) = (&node.op, node.inputs.get(2)) else { continue };
        let count = sums.get(param).copied().unwrap_or(0);
        if count != 1 {
            return Err(("V09", format!("{} has {count} gradients", name(graph, *param))));
        }
    }
    Ok(())
}

fn no_dense_gradient(graph: &Graph) -> Check {
    let forward = super::uses::Forward::new(graph);
    let mut matrices: HashSet<ValueId> = HashSet::new();
    for id in graph.block(Block::Forward) {
        let node = graph.node(*id);
        if let (Op::SparseDelta(_) | Op::Fetch(_), [_, Some(index), _]) = (&node.op, node.inputs.as_slice())
            && forward.uses(node.outputs[0]).multiplied()
        {
            matrices.insert(*index);
        }
    }
    for id in graph.block(Block::Backward) {
        let node = graph.node(*id);
        let (Op::Take(_), [Some(source), Some(index)]) = (&node.op, node.inputs.as_slice()) else { continue };
        if let Def::Node(dense, _) = graph.value(*source).def
            && matrices.contains(index)
        {
            let line = super::display_node(graph, dense);
            return Err(("V10", format!("{line} is a dense gradient, read by {}", super::display_node(graph, *id))));
        }
    }
    Ok(())
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
            if printed == again {
                return Ok(());
            }
            let differ = printed.lines().zip(again.lines()).find(|(a, b)| a != b);
            let (a, b) = differ.unwrap_or(("the text", "another with more or fewer lines"));
            Err(("V04", format!("`{a}` prints as `{b}` after parsing")))
        }
    }
}
