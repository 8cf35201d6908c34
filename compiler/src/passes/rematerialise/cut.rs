//! The values that are best kept: a minimum cut by bytes.
//!
//! A value is an edge whose capacity is the memory it takes; the flow comes from what cannot be repeated and ends in what the
//! backward reads. What may be repeated becomes less from cut to cut, which adds sources: the flow that was found stays valid
//! and grows (Dinic 1970).

use crate::ir::{Block, Def, Graph, NodeId, ValueId};
use crate::ops::Op;
use std::collections::VecDeque;

/// What is more than all memory, and still far from overflowing a sum.
const INFINITE: u64 = 1 << 60;
const SOURCE: usize = 0;
const SINK: usize = 1;

/// The network of a graph and a flow through it.
#[derive(Clone)]
pub(super) struct Network {
    /// Where each edge ends. An edge and its reverse are neighbours.
    ends: Vec<u32>,
    /// What can still flow along each edge.
    open: Vec<u64>,
    /// The edges that leave each point.
    leaving: Vec<Vec<u32>>,
    /// The point at which the edge of a value begins; it ends in the next.
    begins: Vec<Option<u32>>,
    /// The edge from the source to each value that a node makes.
    sources: Vec<u32>,
}

impl Network {
    /// The network in which all of `repeatable` may be repeated, without a flow.
    pub(super) fn new(graph: &Graph, repeatable: impl Fn(NodeId) -> bool) -> Network {
        let values = graph.values().count();
        let mut network = Network {
            ends: Vec::new(),
            open: Vec::new(),
            leaving: vec![Vec::new(); 2],
            begins: vec![None; values],
            sources: vec![u32::MAX; values],
        };
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
        for &id in graph.block(Block::Forward).iter().filter(|id| repeatable(**id)) {
            let node = graph.node(id);
            for output in &node.outputs {
                let Some(to) = network.begins[output.0 as usize] else { continue };
                // Weights and constants are there at any time and have no edges.
                for from in
                    node.inputs.iter().flatten().filter_map(|v| network.begins[v.0 as usize]).collect::<Vec<_>>()
                {
                    network.add(from as usize + 1, to as usize, INFINITE);
                }
            }
        }
        let mut read = vec![false; values];
        let operands = graph.block(Block::Backward).iter().flat_map(|id| graph.node(*id).inputs.iter().flatten());
        operands.for_each(|v| read[v.0 as usize] = true);
        for at in (0..values).filter(|v| read[*v]).filter_map(|v| network.begins[v]).collect::<Vec<_>>() {
            network.add(at as usize + 1, SINK, INFINITE);
        }
        network
    }

    fn add(&mut self, from: usize, to: usize, capacity: u64) -> u32 {
        let edge = self.ends.len() as u32;
        self.ends.extend([to as u32, from as u32]);
        self.open.extend([capacity, 0]);
        self.leaving[from].push(edge);
        self.leaving[to].push(edge + 1);
        edge
    }

    fn add_value(&mut self, value: ValueId, bytes: u64, source: u64) {
        let at = self.leaving.len();
        self.leaving.extend([Vec::new(), Vec::new()]);
        self.begins[value.0 as usize] = Some(at as u32);
        self.add(at, at + 1, bytes);
        self.sources[value.0 as usize] = self.add(SOURCE, at, source);
    }

    /// From now on the node that makes `value` is not repeated.
    pub(super) fn fix(&mut self, value: ValueId) {
        if let Some(open) = self.open.get_mut(self.sources[value.0 as usize] as usize) {
            *open = INFINITE;
        }
    }

    /// For each value, whether the backward reads it, or needs it for what it reads, and it is not worth keeping. Of the minimum
    /// cuts the one nearest to the backward is taken, which repeats least.
    pub(super) fn behind(&mut self) -> Vec<bool> {
        while let Some(levels) = self.levels() {
            let mut next = vec![0; self.leaving.len()];
            while self.augment(&levels, &mut next) {}
        }
        // The points from which more could still flow to the sink.
        let mut reaching = vec![false; self.leaving.len()];
        reaching[SINK] = true;
        let mut stack = vec![SINK];
        while let Some(at) = stack.pop() {
            for &edge in &self.leaving[at] {
                let from = self.ends[edge as usize] as usize;
                if self.open[edge as usize ^ 1] > 0 && !reaching[from] {
                    reaching[from] = true;
                    stack.push(from);
                }
            }
        }
        self.begins.iter().map(|at| at.is_some_and(|at| reaching[at as usize])).collect()
    }

    /// Edges from the source to each point along open edges, if the sink can be reached.
    fn levels(&self) -> Option<Vec<u32>> {
        let mut levels = vec![u32::MAX; self.leaving.len()];
        levels[SOURCE] = 0;
        let mut queue = VecDeque::from([SOURCE]);
        while let Some(at) = queue.pop_front() {
            for &edge in self.leaving[at].iter().filter(|e| self.open[**e as usize] > 0) {
                let to = self.ends[edge as usize] as usize;
                if levels[to] == u32::MAX {
                    levels[to] = levels[at] + 1;
                    if to == SINK {
                        return Some(levels);
                    }
                    queue.push_back(to);
                }
            }
        }
        None
    }

    /// Lets more flow along one path from level to level; `next` is the first edge of each point that is worth trying.
    fn augment(&mut self, levels: &[u32], next: &mut [usize]) -> bool {
        let mut path: Vec<u32> = Vec::new();
        let mut at = SOURCE;
        while at != SINK {
            let deeper = |edge: u32| {
                let to = self.ends[edge as usize] as usize;
                self.open[edge as usize] > 0 && levels[to] == levels[at] + 1
            };
            let found = self.leaving[at][next[at]..].iter().position(|edge| deeper(*edge));
            match (found, path.pop()) {
                (Some(skipped), last) => {
                    next[at] += skipped;
                    path.extend(last);
                    path.push(self.leaving[at][next[at]]);
                    at = self.ends[self.leaving[at][next[at]] as usize] as usize;
                }
                (None, None) => return false,
                (None, Some(edge)) => {
                    next[at] = self.leaving[at].len();
                    at = self.ends[edge as usize ^ 1] as usize;
                    next[at] += 1;
                }
            }
        }
        let most = path.iter().map(|edge| self.open[*edge as usize]).min().unwrap_or(0);
        for edge in path {
            self.open[edge as usize] -= most;
            self.open[edge as usize ^ 1] += most;
        }
        true
    }
}
