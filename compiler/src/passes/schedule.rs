//! Schedule: gradients at trained entries are computed as soon as all that they read is there.
//!
//! What such a gradient reads beside the gradient of a result is then no longer needed when gradients of operands are made.

use crate::error::Result;
use crate::ir::{Block, Def, Graph, NodeId, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    let order = graph.block(Block::Backward).to_vec();
    // What reads an index, and what follows from it: no gradient of an operand does.
    let mut sampled: HashSet<ValueId> =
        graph.values().filter(|(_, v)| matches!(v.def, Def::Index(..))).map(|(id, _)| id).collect();
    let mut schedule = Schedule { graph, missing: HashSet::new(), views: HashMap::new(), order: Vec::new() };
    let (mut waiting, mut rest) = (Vec::new(), Vec::new());
    for id in order {
        let node = schedule.graph.node(id);
        schedule.missing.extend(&node.outputs);
        if node.op.is_view() {
            schedule.views.insert(node.outputs[0], id);
        } else if node.inputs.iter().flatten().any(|v| sampled.contains(v)) {
            sampled.extend(&node.outputs);
            waiting.push(id);
        } else {
            rest.push(id);
        }
    }
    // How many values each of those that wait still waits for, which of them wait for a value, and which wait for none.
    let mut waits_for: Vec<usize> = Vec::with_capacity(waiting.len());
    let mut readers: HashMap<ValueId, Vec<usize>> = HashMap::new();
    let mut ready = BTreeSet::new();
    for (i, id) in waiting.iter().enumerate() {
        let mut made_later = HashSet::new();
        schedule.made_later(*id, &mut made_later);
        waits_for.push(made_later.len());
        if made_later.is_empty() {
            ready.insert(i);
        }
        for value in made_later {
            readers.entry(value).or_default().push(i);
        }
    }
    for mut next in [None].into_iter().chain(rest.into_iter().map(Some)) {
        loop {
            if let Some(id) = next {
                schedule.place(id);
                for i in schedule.graph.node(id).outputs.iter().filter_map(|v| readers.remove(v)).flatten() {
                    waits_for[i] -= 1;
                    if waits_for[i] == 0 {
                        ready.insert(i);
                    }
                }
            }
            let Some(first) = ready.pop_first() else { break };
            next = Some(waiting[first]);
        }
    }
    let order = schedule.order;
    graph.set_block(Block::Backward, order);
    Ok(())
}

/// An order under construction. Views are placed where they are first read.
struct Schedule<'g> {
    graph: &'g Graph,
    /// Values that no placed node has made.
    missing: HashSet<ValueId>,
    views: HashMap<ValueId, NodeId>,
    order: Vec<NodeId>,
}

impl Schedule<'_> {
    /// Adds the values, views apart, that must be made before a node can be placed.
    fn made_later(&self, id: NodeId, found: &mut HashSet<ValueId>) {
        for value in self.graph.node(id).inputs.iter().flatten().filter(|v| self.missing.contains(v)) {
            match self.views.get(value) {
                Some(view) => self.made_later(*view, found),
                None => _ = found.insert(*value),
            }
        }
    }

    fn place(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        for operand in node.inputs.iter().flatten() {
            if let Some(&view) = self.views.get(operand).filter(|_| self.missing.contains(operand)) {
                self.place(view);
            }
        }
        for output in &node.outputs {
            self.missing.remove(output);
        }
        self.order.push(id);
    }
}
