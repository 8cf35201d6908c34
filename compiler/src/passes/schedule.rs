//! Schedule: gradients at trained entries are computed as soon as all that they read is there.
//!
//! What such a gradient reads beside the gradient of a result is then no longer needed when gradients of operands are made.

use crate::error::Result;
use crate::ir::{Block, Def, Graph, NodeId, ValueId};
use std::collections::{HashMap, HashSet};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    let order = graph.block(Block::Backward).to_vec();
    // What reads an index, and what follows from it: no gradient of an operand does.
    let mut sampled: HashSet<ValueId> =
        graph.values().filter(|(_, v)| matches!(v.def, Def::Index(..))).map(|(id, _)| id).collect();
    let (mut waiting, mut rest) = (Vec::new(), Vec::new());
    let mut schedule = Schedule { graph, missing: HashSet::new(), views: HashMap::new(), order: Vec::new() };
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
    for id in rest.into_iter().map(Some).chain([None]) {
        // One of those that wait may wait for another before it.
        waiting.retain(|&id| {
            let ready = schedule.ready(id);
            if ready {
                schedule.place(id);
            }
            !ready
        });
        if let Some(id) = id {
            schedule.place(id);
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
    /// Whether all operands of a node are made, but for views of what is.
    fn ready(&self, id: NodeId) -> bool {
        let mut operands = self.graph.node(id).inputs.iter().flatten();
        operands.all(|v| !self.missing.contains(v) || self.views.get(v).is_some_and(|view| self.ready(*view)))
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
