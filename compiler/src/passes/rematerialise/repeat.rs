//! What the backward repeats, and in which order.

use crate::error::Result;
use crate::ir::{Block, Graph, Node, NodeId, ValueId};
use crate::lower::{Buffers, lower_node};
use crate::ops::Op;
use std::collections::{BTreeMap, HashMap};

/// What one node costs: to repeat, and to keep.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    flops: u64,
    bytes: u64,
}

impl Cost {
    /// Operations for a byte of its results.
    pub(super) fn ratio(&self) -> u64 {
        self.flops.div_ceil(self.bytes.max(1))
    }
}

/// A graph of which nothing is repeated yet.
pub(super) struct Plain<'g> {
    pub(super) graph: &'g Graph,
    /// The costs of the forward's nodes that may be repeated. What trains may not: a weight has one sparse delta.
    pub(super) costs: HashMap<NodeId, Cost>,
    /// The node of the forward that makes each value, and its place there.
    makers: Vec<Option<(usize, NodeId)>>,
}

/// A node of the backward as it is to be.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) node: NodeId,
    /// Whether it repeats a node of the forward.
    pub(super) copy: bool,
}

impl<'g> Plain<'g> {
    pub(super) fn new(graph: &'g Graph) -> Plain<'g> {
        let mut buffers = Buffers::default();
        let forward = graph.block(Block::Forward);
        let nodes = forward.iter().filter(|id| !matches!(graph.node(**id).op, Op::SparseDelta(_)));
        let costs = nodes.map(|&id| (id, cost(graph, id, &mut buffers))).collect();
        let mut makers = vec![None; graph.values().count()];
        for (place, id) in forward.iter().enumerate() {
            graph.node(*id).outputs.iter().for_each(|v| makers[v.0 as usize] = Some((place, *id)));
        }
        Plain { graph, costs, makers }
    }

    /// The node of the forward that makes a value.
    pub(super) fn maker(&self, value: ValueId) -> Option<NodeId> {
        self.makers[value.0 as usize].map(|(_, id)| id)
    }

    /// The backward in which the values of `again` are made a second time, each just before it is first read, and the operations
    /// that this costs.
    pub(super) fn order(&self, again: &[bool]) -> (Vec<Entry>, u64) {
        let mut copied = vec![false; again.len()];
        let (mut order, mut flops) = (Vec::new(), 0);
        for &id in self.graph.block(Block::Backward) {
            // What this node reads, and what that is made of, by place in the forward.
            let mut missing: BTreeMap<usize, NodeId> = BTreeMap::new();
            let mut stack: Vec<ValueId> = self.graph.node(id).inputs.iter().flatten().copied().collect();
            while let Some(ValueId(value)) = stack.pop() {
                let value = value as usize;
                let Some((place, maker)) = self.makers[value].filter(|_| again[value] && !copied[value]) else {
                    continue;
                };
                if missing.insert(place, maker).is_none() {
                    stack.extend(self.graph.node(maker).inputs.iter().flatten());
                }
            }
            for maker in missing.into_values() {
                flops += self.costs.get(&maker).map_or(0, |c| c.flops);
                self.graph.node(maker).outputs.iter().for_each(|v| copied[v.0 as usize] = again[v.0 as usize]);
                order.push(Entry { node: maker, copy: true });
            }
            order.push(Entry { node: id, copy: false });
        }
        (order, flops)
    }

    /// The graph with such a backward.
    pub(super) fn repeated(&self, again: &[bool], order: &[Entry]) -> Result<Graph> {
        let mut graph = self.graph.clone();
        let mut copies: HashMap<ValueId, ValueId> = HashMap::new();
        let mut backward = Vec::with_capacity(order.len());
        for entry in order {
            if entry.copy {
                let Node { op, inputs, outputs, origin, .. } = graph.node(entry.node).clone();
                let inputs: Vec<Option<ValueId>> =
                    inputs.iter().map(|i| i.map(|v| copies.get(&v).copied().unwrap_or(v))).collect();
                let name = format!("{}.again", graph.value(outputs[0]).name);
                let (copy, results) = graph.create(op, &inputs, &name, &origin)?;
                graph.mark_again(copy);
                backward.push(copy);
                copies.extend(outputs.into_iter().zip(results).filter(|(v, _)| again[v.0 as usize]));
                continue;
            }
            for slot in 0..graph.node(entry.node).inputs.len() {
                if let Some(&copy) = graph.node(entry.node).inputs[slot].and_then(|v| copies.get(&v)) {
                    graph.set_input(entry.node, slot, copy);
                }
            }
            backward.push(entry.node);
        }
        graph.set_block(Block::Backward, backward);
        Ok(graph)
    }
}

fn cost(graph: &Graph, id: NodeId, buffers: &mut Buffers) -> Cost {
    let (steps, _) = lower_node(graph, id, buffers);
    let flops = steps.iter().map(|step| step.flops(&buffers.list));
    let bytes = graph.node(id).outputs.iter().map(|v| graph.ty(*v).bytes() as u64).sum();
    Cost { flops: flops.sum(), bytes }
}
