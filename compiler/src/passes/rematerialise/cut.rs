//! The values that are best kept: a minimum cut by bytes.
//!
//! A value is an edge whose capacity is the memory it takes; the flow comes from what cannot be repeated and ends in what the
//! backward reads. What may be repeated becomes less from cut to cut, which adds sources: the flow that was found stays valid
//! and grows.

use crate::ir::{Block, Def, Graph, NodeId, ValueId};
use crate::ops::Op;
use petgraph::Direction;
use petgraph::algo::maximum_flow::dinics;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;

/// What is more than all memory, and still far from overflowing a sum.
const INFINITE: u64 = 1 << 60;

/// The network of a graph, and a flow through it.
#[derive(Clone)]
pub(super) struct Network {
    /// What can still flow. Each edge is followed by its reverse, along which what flows can be taken back.
    open: DiGraph<(), u64>,
    source: NodeIndex,
    sink: NodeIndex,
    /// The ends of the edge of each value.
    ends: Vec<Option<[NodeIndex; 2]>>,
    /// The edge from the source to each value.
    sources: Vec<Option<EdgeIndex>>,
}

impl Network {
    /// The network in which all of `repeatable` may be repeated, without a flow.
    pub(super) fn new(graph: &Graph, repeatable: impl Fn(NodeId) -> bool) -> Network {
        let values = graph.values().count();
        let mut open = DiGraph::new();
        let (source, sink) = (open.add_node(()), open.add_node(()));
        let mut network = Network { open, source, sink, ends: vec![None; values], sources: vec![None; values] };
        for (id, value) in graph.values().filter(|(_, v)| matches!(v.def, Def::Arg(_))) {
            network.add_value(id, value.ty.bytes() as u64, INFINITE);
        }
        for &id in graph.block(Block::Forward) {
            let node = graph.node(id);
            for &output in &node.outputs {
                // Another view of the same memory is never kept for itself.
                let bytes = match &node.op {
                    Op::SparseDelta(_) => 0,
                    op if op.is_view() => INFINITE,
                    _ => graph.ty(output).bytes() as u64,
                };
                network.add_value(output, bytes, if repeatable(id) { 0 } else { INFINITE });
            }
        }
        // Weights and constants are there at any time and have no edges.
        for node in graph.block(Block::Forward).iter().filter(|id| repeatable(**id)).map(|id| graph.node(*id)) {
            for [to, _] in node.outputs.iter().filter_map(|v| network.ends[v.0 as usize]) {
                for [_, from] in node.inputs.iter().flatten().filter_map(|v| network.ends[v.0 as usize]) {
                    add(&mut network.open, from, to, INFINITE);
                }
            }
        }
        let mut read = vec![false; values];
        let operands = graph.block(Block::Backward).iter().flat_map(|id| graph.node(*id).inputs.iter().flatten());
        operands.for_each(|v| read[v.0 as usize] = true);
        for [_, from] in network.ends.iter().zip(read).filter_map(|(ends, read)| ends.filter(|_| read)) {
            add(&mut network.open, from, sink, INFINITE);
        }
        network
    }

    fn add_value(&mut self, value: ValueId, bytes: u64, source: u64) {
        let [from, to] = [self.open.add_node(()), self.open.add_node(())];
        add(&mut self.open, from, to, bytes);
        self.ends[value.0 as usize] = Some([from, to]);
        self.sources[value.0 as usize] = Some(add(&mut self.open, self.source, from, source));
    }

    /// From now on the node that makes `value` is not repeated.
    pub(super) fn fix(&mut self, value: ValueId) {
        if let Some(edge) = self.sources[value.0 as usize] {
            self.open[edge] = INFINITE;
        }
    }

    /// For each value, whether the backward reads it, or needs it for what it reads, and it is not worth keeping. Of the minimum
    /// cuts the one nearest to the backward is taken, which repeats least.
    pub(super) fn behind(&mut self) -> Vec<bool> {
        let (_, flows) = dinics(&self.open, self.source, self.sink);
        for (edge, flows) in flows.chunks_exact(2).enumerate() {
            let [there, back] = [2 * edge, 2 * edge + 1].map(EdgeIndex::new);
            self.open[there] = self.open[there] + flows[1] - flows[0];
            self.open[back] = self.open[back] + flows[0] - flows[1];
        }
        // The points from which more could still flow to the sink.
        let mut reaching = vec![false; self.open.node_count()];
        reaching[self.sink.index()] = true;
        let mut stack = vec![self.sink];
        while let Some(at) = stack.pop() {
            for edge in self.open.edges_directed(at, Direction::Incoming).filter(|e| *e.weight() > 0) {
                if !std::mem::replace(&mut reaching[edge.source().index()], true) {
                    stack.push(edge.source());
                }
            }
        }
        self.ends.iter().map(|ends| ends.is_some_and(|[from, _]| reaching[from.index()])).collect()
    }
}

fn add(open: &mut DiGraph<(), u64>, from: NodeIndex, to: NodeIndex, capacity: u64) -> EdgeIndex {
    let edge = open.add_edge(from, to, capacity);
    open.add_edge(to, from, 0);
    edge
}
