//! How products use a parameter: what decides whether its gradient can be sampled.

use super::{Block, Def, Graph, NodeId, ValueId};
use crate::ops::Op;
use std::collections::HashSet;

/// The uses of a parameter in the forward block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// A matrix product or convolution multiplies by it in the order in which it is stored, seen through reshapes and constant
    /// scalar factors. The gradient of such a use is a product, which can be sampled.
    pub product: bool,
    /// A product multiplies by something that is made of it and of other parameters only: by a part, a sum or a function of
    /// it, or by it in another order or batch. The gradient of such a use is dense.
    pub derived: bool,
    /// Something else reads it.
    pub other: bool,
}

impl Uses {
    /// Whether a product multiplies by it in any way.
    pub fn multiplied(self) -> bool {
        self.product || self.derived
    }
}

/// The forward block as parameters see it.
pub struct Forward<'g> {
    graph: &'g Graph,
    /// The nodes that use each value, by its index.
    users: Vec<Vec<NodeId>>,
    /// Whether each value depends on an input of the graph.
    depends: Vec<bool>,
}

impl Forward<'_> {
    /// The forward block of `graph`.
    pub fn new(graph: &Graph) -> Forward<'_> {
        let mut depends: Vec<bool> = graph.values().map(|(_, v)| matches!(v.def, Def::Arg(_))).collect();
        let mut users = vec![Vec::new(); depends.len()];
        for id in graph.block(Block::Forward) {
            let node = graph.node(*id);
            for input in node.inputs.iter().flatten() {
                users[input.0 as usize].push(*id);
            }
            if node.inputs.iter().flatten().any(|v| depends[v.0 as usize]) {
                for output in &node.outputs {
                    depends[output.0 as usize] = true;
                }
            }
        }
        Forward { graph, users, depends }
    }

    /// Whether a node reads `value`.
    pub fn reads(&self, value: ValueId) -> bool {
        !self.users[value.0 as usize].is_empty()
    }

    /// The uses of `parameter`.
    pub fn uses(&self, parameter: ValueId) -> Uses {
        let graph = self.graph;
        let mut found = Uses::default();
        // Values made of the parameter, and whether they are views of it.
        let mut stack = vec![(parameter, true)];
        let mut seen: HashSet<(ValueId, bool)> = stack.iter().copied().collect();
        while let Some((value, view)) = stack.pop() {
            found.other |= graph.returns.iter().any(|r| r.1 == value);
            for id in &self.users[value.0 as usize] {
                let node = graph.node(*id);
                let reads = |slot: usize| node.inputs.get(slot).copied().flatten() == Some(value);
                let made = match &node.op {
                    Op::MatMul(_) => {
                        let sampled = view && graph.ty(value).rank() == 2;
                        let factor = reads(0) || reads(1);
                        found.product |= factor && sampled;
                        found.derived |= factor && !sampled;
                        found.other |= reads(2) || reads(3);
                        continue;
                    }
                    Op::Conv(_) | Op::ConvGradInput(_) => {
                        let sampled = view && !reads(0);
                        let factor = reads(0) || reads(1);
                        found.product |= factor && sampled;
                        found.derived |= factor && !sampled;
                        found.other |= reads(2);
                        continue;
                    }
                    Op::Reshape(_) => Some(view),
                    Op::Binary(b) if b.op == "mul" || b.op == "div" => {
                        let other = |slot: usize| node.inputs.get(slot).copied().flatten();
                        let constant = |v: Option<ValueId>| v.is_some_and(|v| graph.scalar(v).is_some());
                        let scaled =
                            (reads(0) && constant(other(1))) || (b.op == "mul" && reads(1) && constant(other(0)));
                        Some(view && scaled && graph.ty(node.outputs[0]).len() == graph.ty(value).len())
                    }
                    Op::Binary(_)
                    | Op::Unary(_)
                    | Op::Cast(_)
                    | Op::Concat(_)
                    | Op::Embed(_)
                    | Op::Expand(_)
                    | Op::Gather(_)
                    | Op::Select(_)
                    | Op::Slice(_)
                    | Op::Transpose(_) => Some(false),
                    _ => None,
                };
                let made = made.filter(|_| !self.depends[node.outputs[0].0 as usize]);
                found.other |= made != Some(true);
                if let Some(view) = made
                    && seen.insert((node.outputs[0], view))
                {
                    stack.push((node.outputs[0], view));
                }
            }
        }
        found
    }
}
