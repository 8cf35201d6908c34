//! Rematerialise: what the backward reads of the forward is computed a second time where that is cheap for the memory it frees.
//!
//! An operator may be repeated if it takes at most so many operations for each byte of its results. The values that are kept are
//! a minimum cut, by bytes, between what must be kept and what the backward reads (as in PyTorch's min-cut partitioner); all
//! that lies behind the cut is repeated, just before it is first read. Repeated operators give the same bits.
//!
//! Under a limit on memory more may be repeated, and the forward is divided into segments: what passes from one to the next is
//! kept, so that no repetition reaches further back than its own segment (as in Chen et al. 2016, arXiv 1604.06174).

mod segments;

use super::{Context, Limit};
use crate::error::{Error, Result};
use crate::ir::{Block, Def, Graph, Node, NodeId, ValueId};
use crate::lower::{Buffers, lower_node};
use crate::ops::Op;
use petgraph::Direction;
use petgraph::algo::maximum_flow::dinics;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Operations for a byte up to which repeating is taken to cost nothing: elementwise functions and normalisations lie below,
/// products and convolutions above.
const FREE: u64 = 16;

/// What is more than all memory, and still far from overflowing a sum.
const INFINITE: u64 = 1 << 60;

/// Parts of the bytes of the forward that a segment may hold: all, a half, and so on.
const SEGMENTS: u32 = 8;

/// Runs the pass: as little is repeated as the limit allows, and what costs nothing always is.
pub fn run(graph: &mut Graph, context: &Context<'_>) -> Result<()> {
    let costs = costs(graph);
    let plain = graph.clone();
    repeat(graph, &costs, FREE, &HashSet::new())?;
    let Some(limit) = &context.limit else { return Ok(()) };
    if (limit.measure)(graph)? <= limit.bytes {
        return Ok(());
    }
    *graph = within(&plain, &costs, limit)?;
    Ok(())
}

/// The graph that repeats least and stays within the limit.
fn within(plain: &Graph, costs: &HashMap<NodeId, Cost>, limit: &Limit<'_>) -> Result<Graph> {
    let mut ratios: Vec<u64> = costs.values().map(Cost::ratio).filter(|r| *r > FREE).collect();
    ratios.sort_unstable();
    ratios.dedup();
    let (mut best, mut least): (Option<(u64, Graph)>, u64) = (None, u64::MAX);
    for part in 0..SEGMENTS {
        let passed = segments::passed(plain, part);
        for ratio in &ratios {
            let mut graph = plain.clone();
            let flops = repeat(&mut graph, costs, *ratio, &passed)?;
            let bytes = (limit.measure)(&graph)?;
            least = least.min(bytes);
            if bytes <= limit.bytes && best.as_ref().is_none_or(|b| flops < b.0) {
                best = Some((flops, graph));
            }
        }
    }
    best.map(|b| b.1).ok_or(Error::Memory { limit: limit.bytes, least })
}

/// What one node costs: to repeat, and to keep.
struct Cost {
    flops: u64,
    bytes: u64,
}

impl Cost {
    /// Operations for a byte of its results.
    fn ratio(&self) -> u64 {
        self.flops.div_ceil(self.bytes.max(1))
    }
}

/// The costs of the forward's nodes that may be repeated. What trains may not: a weight has one sparse delta.
fn costs(graph: &Graph) -> HashMap<NodeId, Cost> {
    let mut buffers = Buffers::default();
    let nodes = graph.block(Block::Forward).iter().filter(|id| !matches!(graph.node(**id).op, Op::SparseDelta(_)));
    nodes.map(|&id| (id, cost(graph, id, &mut buffers))).collect()
}

fn cost(graph: &Graph, id: NodeId, buffers: &mut Buffers) -> Cost {
    let (steps, _) = lower_node(graph, id, buffers);
    let flops = steps.iter().map(|step| step.flops(&buffers.list));
    let bytes = graph.node(id).outputs.iter().map(|v| graph.ty(*v).bytes() as u64).sum();
    Cost { flops: flops.sum(), bytes }
}

/// Makes the backward repeat what takes at most `ratio` operations for a byte and is not among the values best kept; `passed`
/// are always kept. Returns the operations that this costs.
fn repeat(graph: &mut Graph, costs: &HashMap<NodeId, Cost>, ratio: u64, passed: &HashSet<ValueId>) -> Result<u64> {
    let may =
        |id: &NodeId, cost: &Cost| cost.ratio() <= ratio && !graph.node(*id).outputs.iter().any(|v| passed.contains(v));
    let repeatable: HashSet<NodeId> = costs.iter().filter(|(id, c)| may(id, c)).map(|(id, _)| *id).collect();
    let again = behind_cut(graph, &repeatable);
    let mut flops = 0;
    let place: HashMap<NodeId, usize> = graph.block(Block::Forward).iter().copied().zip(0..).collect();
    let producer: HashMap<ValueId, NodeId> =
        place.keys().flat_map(|&id| graph.node(id).outputs.iter().map(move |v| (*v, id))).collect();
    let mut copies: HashMap<ValueId, ValueId> = HashMap::new();
    let mut order = Vec::new();
    for id in graph.block(Block::Backward).to_vec() {
        // What this node reads, and what that is made of, by place in the forward.
        let mut missing: BTreeMap<usize, NodeId> = BTreeMap::new();
        let mut stack: Vec<ValueId> = graph.node(id).inputs.iter().flatten().copied().collect();
        while let Some(value) = stack.pop() {
            let Some(&made_by) = producer.get(&value).filter(|_| again.contains(&value)) else { continue };
            if !copies.contains_key(&value) && missing.insert(place[&made_by], made_by).is_none() {
                stack.extend(graph.node(made_by).inputs.iter().flatten());
            }
        }
        for made_by in missing.into_values() {
            let Node { op, inputs, outputs, origin, .. } = graph.node(made_by).clone();
            let inputs: Vec<Option<ValueId>> =
                inputs.iter().map(|i| i.map(|v| copies.get(&v).copied().unwrap_or(v))).collect();
            let name = format!("{}.again", graph.value(outputs[0]).name);
            flops += costs.get(&made_by).map_or(0, |c| c.flops);
            let (copy, results) = graph.create(op, &inputs, &name, &origin)?;
            graph.mark_again(copy);
            order.push(copy);
            copies.extend(outputs.into_iter().zip(results).filter(|(v, _)| again.contains(v)));
        }
        for slot in 0..graph.node(id).inputs.len() {
            if let Some(&copy) = graph.node(id).inputs[slot].and_then(|v| copies.get(&v)) {
                graph.set_input(id, slot, copy);
            }
        }
        order.push(id);
    }
    graph.set_block(Block::Backward, order);
    Ok(flops)
}

/// The values that the backward reads, or needs for what it reads, and that are not worth keeping.
///
/// A value is an edge whose capacity is the memory it takes; the flow comes from what cannot be repeated and ends in what the
/// backward reads. Of the minimum cuts the one nearest to the backward is taken, which repeats least.
fn behind_cut(graph: &Graph, repeatable: &HashSet<NodeId>) -> HashSet<ValueId> {
    let mut network = DiGraph::<(), u64>::new();
    let (source, sink) = (network.add_node(()), network.add_node(()));
    let mut ends: HashMap<ValueId, [NodeIndex; 2]> = HashMap::new();
    let mut add = |network: &mut DiGraph<(), u64>, value: ValueId, capacity: u64| {
        let [from, to] = [network.add_node(()), network.add_node(())];
        network.add_edge(from, to, capacity);
        ends.insert(value, [from, to]);
        from
    };
    for (id, value) in graph.values().filter(|(_, v)| matches!(v.def, Def::Arg(_))) {
        let from = add(&mut network, id, value.ty.bytes() as u64);
        network.add_edge(source, from, INFINITE);
    }
    let mut made_of = Vec::new();
    for &id in graph.block(Block::Forward) {
        let node = graph.node(id);
        // Another view of the same memory is never kept for itself.
        let view = node.op.is_view();
        let fixed = matches!(node.op, Op::SparseDelta(_));
        for &output in &node.outputs {
            let capacity = if view { INFINITE } else { graph.ty(output).bytes() as u64 };
            let from = add(&mut network, output, if fixed { 0 } else { capacity });
            if repeatable.contains(&id) {
                made_of.extend(node.inputs.iter().flatten().map(|input| (*input, from)));
            } else {
                network.add_edge(source, from, INFINITE);
            }
        }
    }
    // Weights and constants are there at any time and have no edges.
    for (input, from) in made_of {
        if let Some([_, to]) = ends.get(&input) {
            network.add_edge(*to, from, INFINITE);
        }
    }
    let read: HashSet<ValueId> =
        graph.block(Block::Backward).iter().flat_map(|id| graph.node(*id).inputs.iter().flatten().copied()).collect();
    for [_, to] in read.iter().filter_map(|v| ends.get(v)) {
        network.add_edge(*to, sink, INFINITE);
    }
    let (_, flows) = dinics(&network, source, sink);
    let reaching = reaching(&network, sink, &flows);
    ends.into_iter().filter(|(_, [from, _])| reaching.contains(from)).map(|(value, _)| value).collect()
}

/// The nodes from which more could still flow to the sink.
fn reaching(network: &DiGraph<(), u64>, sink: NodeIndex, flows: &[u64]) -> HashSet<NodeIndex> {
    let mut found = HashSet::from([sink]);
    let mut stack = vec![sink];
    while let Some(at) = stack.pop() {
        let forth = network.edges_directed(at, Direction::Incoming);
        let open = forth.filter(|e| flows[e.id().index()] < *e.weight()).map(|e| e.source());
        let back = network.edges_directed(at, Direction::Outgoing);
        let undone = back.filter(|e| flows[e.id().index()] > 0).map(|e| e.target());
        for next in open.chain(undone) {
            if found.insert(next) {
                stack.push(next);
            }
        }
    }
    found
}
