//! How passes change a graph: rules that replace one node by others.

use super::{Block, Graph, NodeId, ValueId};
use crate::error::Result;
use crate::ops::Op;
use std::sync::Arc;

/// What a rule sees and may do while it looks at one node: read the graph, and put new nodes before that node.
pub struct Rewriter<'g> {
    /// The graph. Rules read it; they change it only through [`Rewriter::emit`] and constants.
    pub graph: &'g mut Graph,
    /// How often each value is used; values that the rule makes are not counted.
    pub uses: Vec<usize>,
    order: Vec<NodeId>,
    origin: Arc<str>,
    name: String,
}

impl Rewriter<'_> {
    /// Puts a node before the one under consideration and returns its first result.
    pub fn emit(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.emit_all(op, &inputs)?[0])
    }

    /// Puts a node before the one under consideration and returns its results.
    pub fn emit_all(&mut self, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> Result<Vec<ValueId>> {
        let (id, outputs) = self.graph.create(op.into(), inputs, &self.name, &self.origin)?;
        self.order.push(id);
        self.uses.resize(self.uses.len() + outputs.len(), 0);
        Ok(outputs)
    }

    /// Whether `value` is used once.
    pub fn used_once(&self, value: ValueId) -> bool {
        self.uses.get(value.0 as usize).is_some_and(|n| *n == 1)
    }
}

/// A rewrite: for a node, the values that replace its first results, or `None` where it does not apply.
pub type Rule = fn(&mut Rewriter<'_>, NodeId) -> Result<Option<Vec<ValueId>>>;

/// Tries `rule` on every node of all blocks in program order, then removes what became dead. Returns how often it applied.
///
/// A replacement of another type than the original would not fit its users, so it is not made. A node sees its operands already
/// replaced, so a rule may match what an earlier application made.
pub fn rewrite(graph: &mut Graph, rule: Rule) -> Result<usize> {
    let mut applied = 0;
    let count = graph.values().count();
    let mut replaced: Vec<Option<ValueId>> = vec![None; count];
    let uses = graph.use_counts();
    let mut rewriter = Rewriter { graph, uses, order: Vec::new(), origin: "".into(), name: String::new() };
    for block in Block::ALL {
        let old = rewriter.graph.block(block).to_vec();
        for id in old {
            for slot in 0..rewriter.graph.node(id).inputs.len() {
                let operand = rewriter.graph.node(id).inputs[slot];
                if let Some(new) = operand.and_then(|v| replaced.get(v.0 as usize).copied().flatten()) {
                    rewriter.graph.set_input(id, slot, new);
                }
            }
            let node = rewriter.graph.node(id);
            rewriter.origin = node.origin.clone();
            rewriter.name = node.outputs.first().map_or(String::new(), |v| rewriter.graph.value(*v).name.clone());
            let outputs = node.outputs.clone();
            let fits = |r: &Rewriter<'_>, values: &[ValueId]| {
                outputs.iter().zip(values).all(|(old, new)| r.graph.ty(*old) == r.graph.ty(*new))
            };
            match rule(&mut rewriter, id)?.filter(|values| fits(&rewriter, values)) {
                Some(values) => {
                    applied += 1;
                    for (old, new) in outputs.iter().zip(&values) {
                        replaced[old.0 as usize] = Some(*new);
                        let n = rewriter.uses[old.0 as usize];
                        if rewriter.uses.len() <= new.0 as usize {
                            rewriter.uses.resize(new.0 as usize + 1, 0);
                        }
                        rewriter.uses[new.0 as usize] += n;
                    }
                }
                None => rewriter.order.push(id),
            }
        }
        let order = std::mem::take(&mut rewriter.order);
        rewriter.graph.set_block(block, order);
    }
    graph.map_uses(|v| replaced.get(v.0 as usize).copied().flatten().unwrap_or(v));
    graph.remove_dead();
    Ok(applied)
}
