//! Keep: what the backward reads of the forward is kept in half precision.
//!
//! A value is rounded after its last use in the forward, or before it if that may put its result in its place, and widened before
//! it is used in the backward: once for uses that follow each other closely, so that it is seldom in memory in single precision,
//! and not at all for operators that take it rounded ([`Rounded`](crate::ops::Rounded)). What the forward makes rounded stays as
//! it is. In fp16 what exceeds 65504 is kept as 65504: one such number makes the gradients of its neighbours inexact, where an
//! infinity would make all gradients NaN. Infinity itself, as in masks, is kept, so that a step that has gone astray shows.
//! Gradients are not kept, so a loss needs no scale.

use super::Context;
use crate::error::Result;
use crate::ir::{Block, Def, Graph, NodeId, Type, ValueId};
use crate::ops::{Cast, Op};
use sara_kernels::DType;
use std::collections::{HashMap, HashSet};

/// Elements from which on a value is worth rounding.
pub(super) const LARGE: usize = 4096;
/// Nodes of the backward between two uses from which on a value is widened again.
const APART: usize = 12;

/// Runs the pass.
pub fn run(graph: &mut Graph, context: &Context<'_>) -> Result<()> {
    let Some(half) = context.precision.half() else { return Ok(()) };
    let forward = graph.block(Block::Forward).to_vec();
    let backward = graph.block(Block::Backward).to_vec();
    let memory = memories(graph, &[&forward[..], &backward[..]].concat());
    let made: HashSet<ValueId> = forward.iter().flat_map(|id| graph.node(*id).outputs.clone()).collect();
    // The outputs stay as they are: the loss is that of what the model gives.
    let returned: HashSet<ValueId> = graph.returns.iter().filter_map(|r| memory.get(&r.1).copied()).collect();
    let kept = |graph: &Graph, value: ValueId| -> Option<ValueId> {
        let of = *memory.get(&value)?;
        let ty = graph.ty(of);
        (made.contains(&of) && ty.dtype == DType::F32 && ty.len() >= LARGE && !returned.contains(&of)).then_some(of)
    };
    // What the forward makes rounded, whole or as a view.
    let is_born = |of: &ValueId| made.contains(of) && graph.ty(*of).dtype == DType::Bf16;
    let born: HashMap<ValueId, ValueId> =
        memory.iter().filter(|(_, of)| is_born(of)).map(|(value, of)| (*value, *of)).collect();
    let read: HashSet<ValueId> = backward
        .iter()
        .flat_map(|id| graph.node(*id).inputs.iter().flatten())
        .filter_map(|value| kept(graph, *value))
        .collect();
    let mut last: HashMap<ValueId, usize> = HashMap::new();
    for (i, id) in forward.iter().enumerate() {
        let node = graph.node(*id);
        let touched = node.inputs.iter().flatten().chain(&node.outputs);
        last.extend(touched.filter_map(|v| memory.get(v)).filter(|v| read.contains(v)).map(|v| (*v, i)));
    }
    let mut ends: HashMap<usize, Vec<ValueId>> = HashMap::new();
    last.into_iter().for_each(|(value, at)| ends.entry(at).or_default().push(value));
    let mut rounded: HashMap<ValueId, ValueId> = HashMap::new();
    let mut order = Vec::with_capacity(forward.len() + read.len());
    for (i, id) in forward.iter().enumerate() {
        let mut values = ends.remove(&i).unwrap_or_default();
        values.sort_unstable();
        // What the node may put its result in the place of is rounded before.
        let (before, after): (Vec<_>, Vec<_>) =
            values.into_iter().partition(|value| may_replace(graph, &memory, *id, *value));
        for (values, node) in [(before, None), (after, Some(*id))] {
            order.extend(node);
            for value in values {
                let (node, results) = cast(graph, value, value, half)?;
                order.push(node);
                rounded.insert(value, results);
            }
        }
    }
    graph.set_block(Block::Forward, order);
    let mut order = Vec::with_capacity(backward.len() + 2 * read.len());
    // The widened copy of each value, and where it was last used.
    let mut wide: HashMap<ValueId, (ValueId, usize)> = HashMap::new();
    let mut views: HashMap<(ValueId, ValueId), ValueId> = HashMap::new();
    for (i, id) in backward.into_iter().enumerate() {
        let outputs = &graph.node(id).outputs;
        let is_view = matches!(graph.node(id).op, Op::Reshape(_));
        if is_view && outputs.iter().any(|v| kept(graph, *v).is_some() || born.contains_key(v)) {
            // Its readers get a view of their own.
            continue;
        }
        for slot in 0..graph.node(id).inputs.len() {
            let Some(value) = graph.node(id).inputs[slot] else { continue };
            let Some(of) = kept(graph, value).or_else(|| born.get(&value).copied()) else { continue };
            if half == DType::Bf16 && takes_rounded(graph, &memory, id, slot) {
                let seen = view(graph, value, of, rounded.get(&of).copied().unwrap_or(of), &mut views, &mut order)?;
                graph.set_input(id, slot, seen);
                continue;
            }
            let copy = match wide.get(&of).filter(|(_, at)| i - at <= APART) {
                Some((copy, _)) => *copy,
                None => {
                    let from = rounded.get(&of).copied().unwrap_or(of);
                    let (node, copy) = cast(graph, from, of, DType::F32)?;
                    order.push(node);
                    copy
                }
            };
            wide.insert(of, (copy, i));
            let seen = view(graph, value, of, copy, &mut views, &mut order)?;
            graph.set_input(id, slot, seen);
        }
        order.push(id);
    }
    graph.set_block(Block::Backward, order);
    Ok(())
}

fn cast(graph: &mut Graph, from: ValueId, named: ValueId, to: DType) -> Result<(NodeId, ValueId)> {
    let name = format!("{}.{to}", graph.value(named).name);
    let origin = graph.producer(named).map_or_else(|| "".into(), |node| node.origin.clone());
    let (node, results) = graph.create(Cast { to }.into(), &[Some(from)], &name, &origin)?;
    Ok((node, results[0]))
}

/// Whether a node takes an operand that is rounded. A product of what nodes make is not one of half precision because that is kept so.
fn takes_rounded(graph: &Graph, memory: &HashMap<ValueId, ValueId>, id: NodeId, slot: usize) -> bool {
    let node = graph.node(id);
    let exact = |v: ValueId| match graph.ty(v) {
        ty if ty.dtype == DType::Bf16 && memory.contains_key(&v) => ty.with_dtype(DType::F32),
        ty => ty.clone(),
    };
    let inputs: Vec<Option<Type>> = node.inputs.iter().map(|i| i.map(exact)).collect();
    let rounded = node.op.rounded(&inputs.iter().map(Option::as_ref).collect::<Vec<_>>());
    let same = slot == 0 && rounded.same && graph.ty(node.outputs[0]).dtype == DType::Bf16;
    same || rounded.takes(slot)
}

/// Whether the result of a node may take the place of the value.
fn may_replace(graph: &Graph, memory: &HashMap<ValueId, ValueId>, id: NodeId, value: ValueId) -> bool {
    let node = graph.node(id);
    let is = |slot: usize| node.inputs.get(slot).copied().flatten().and_then(|v| memory.get(&v)) == Some(&value);
    match node.op {
        Op::MatMul(_) => is(3),
        Op::Binary(_) => is(0) || is(1),
        _ => false,
    }
}

/// The value that `value` is a view of, for all values that these nodes make.
pub(super) fn memories(graph: &Graph, nodes: &[NodeId]) -> HashMap<ValueId, ValueId> {
    let mut memory: HashMap<ValueId, ValueId> = HashMap::new();
    for id in nodes {
        let node = graph.node(*id);
        match node.inputs.first() {
            Some(Some(of)) if matches!(node.op, Op::Reshape(_)) => {
                if let Some(of) = memory.get(of).copied() {
                    memory.insert(node.outputs[0], of);
                }
            }
            _ if matches!(node.op, Op::SparseDelta(_) | Op::Reshape(_)) => {}
            _ => memory.extend(node.outputs.iter().map(|v| (*v, *v))),
        }
    }
    memory
}

/// The view of `copy` that `value` is of `of`.
fn view(
    graph: &mut Graph,
    value: ValueId,
    of: ValueId,
    copy: ValueId,
    views: &mut HashMap<(ValueId, ValueId), ValueId>,
    order: &mut Vec<NodeId>,
) -> Result<ValueId> {
    if value == of {
        return Ok(copy);
    }
    if let Some(view) = views.get(&(value, copy)) {
        return Ok(*view);
    }
    let Def::Node(id, _) = graph.value(value).def else { return Ok(copy) };
    let node = graph.node(id).clone();
    let name = graph.value(value).name.clone();
    let (id, results) = graph.create(node.op, &[Some(copy)], &name, &node.origin)?;
    order.push(id);
    views.insert((value, copy), results[0]);
    Ok(results[0])
}
