//! Stream: large weights stay in their files, and each node that reads one has a copy made of it just before.
//!
//! A copy lives for one node, so that what is in memory of all large weights is the largest of them. Views of a weight are made of
//! the copy. Runs last: what it adds is not to be shared or moved.

use super::Context;
use crate::compile::Residency;
use crate::error::Result;
use crate::ir::{Block, Def, Graph, NodeId, Type, ValueId};
use crate::ops::{Fetch, Op};
use sara_kernels::DType;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Bytes from which on a weight is left in its file: a page.
const LARGE: u64 = 4096;

/// Runs the pass.
pub fn run(graph: &mut Graph, context: &Context<'_>) -> Result<()> {
    if context.weights == Residency::Resident {
        return Ok(());
    }
    let returned: HashSet<ValueId> = graph.returns.iter().map(|r| r.1).collect();
    let mut stream = Stream { graph, files: HashMap::new(), order: Vec::new() };
    for block in [Block::Forward, Block::Backward] {
        for id in stream.graph.block(block).to_vec() {
            let node = stream.graph.node(id).clone();
            if node.op.is_view() && !returned.contains(&node.outputs[0]) && stream.weight(node.outputs[0]).is_some() {
                continue;
            }
            for (slot, input) in node.inputs.iter().enumerate() {
                let Some(value) = *input else { continue };
                if let Some(copy) = stream.copy(value, &node.origin)? {
                    stream.graph.set_input(id, slot, copy);
                }
            }
            stream.order.push(id);
        }
        let order = std::mem::take(&mut stream.order);
        stream.graph.set_block(block, order);
    }
    let streamed: HashSet<ValueId> = stream.files.into_keys().collect();
    for id in graph.block(Block::Update).to_vec() {
        // What is copied takes its values from the params.
        let weight = graph.node(id).inputs[0].filter(|w| streamed.contains(w));
        if weight.is_some() && matches!(graph.node(id).op, Op::SparseAdamW(_)) {
            graph.clear_input(id, 0);
        }
    }
    Ok(())
}

/// Whether a weight of this type stays in its file.
pub(super) fn is_large(ty: &Type) -> bool {
    ty.dtype.computed().is_float() && ty.bytes() as u64 >= LARGE
}

struct Stream<'g> {
    graph: &'g mut Graph,
    /// The file of each weight that is copied.
    files: HashMap<ValueId, ValueId>,
    order: Vec<NodeId>,
}

impl Stream<'_> {
    /// The large weight that `value` is, or is a view of.
    fn weight(&self, value: ValueId) -> Option<ValueId> {
        match self.graph.value(value).def {
            Def::Weight(_) => is_large(self.graph.ty(value)).then_some(value),
            Def::Node(id, _) if self.graph.node(id).op.is_view() => self.weight(self.graph.node(id).inputs[0]?),
            _ => None,
        }
    }

    /// A copy of `value` in the order that is being made, if it is a large weight or a view of one.
    fn copy(&mut self, value: ValueId, origin: &Arc<str>) -> Result<Option<ValueId>> {
        let Some(weight) = self.weight(value) else { return Ok(None) };
        if value == weight {
            return self.fetch(weight, &[], origin).map(Some);
        }
        let Def::Node(id, _) = self.graph.value(value).def else { return Ok(None) };
        let node = self.graph.node(id).clone();
        if let (Op::SparseDelta(_), [_, trained @ ..]) = (&node.op, node.inputs.as_slice()) {
            return self.fetch(weight, trained, origin).map(Some);
        }
        let Some(Some(of)) = node.inputs.first().copied() else { return Ok(None) };
        let Some(of) = self.copy(of, origin)? else { return Ok(None) };
        let name = self.graph.value(value).name.clone();
        let (view, results) = self.graph.create(node.op, &[Some(of)], &name, origin)?;
        self.order.push(view);
        Ok(Some(results[0]))
    }

    fn fetch(&mut self, weight: ValueId, trained: &[Option<ValueId>], origin: &Arc<str>) -> Result<ValueId> {
        let Def::Weight(index) = self.graph.value(weight).def else { unreachable!("only weights are fetched") };
        let (name, ty) = (self.graph.value(weight).name.clone(), self.graph.ty(weight).clone());
        let (shape, to) = (ty.shape, ty.dtype);
        let table = &self.graph.weights[index];
        let (stored, bytes) = (table.stored.name().to_owned(), table.stored_bytes() as usize);
        let graph = &mut *self.graph;
        let file = *self.files.entry(weight).or_insert_with(|| {
            graph.add_value(&format!("{name}.file"), Type::new(DType::U8, &[bytes]), Def::File(weight))
        });
        let inputs: Vec<Option<ValueId>> = [Some(file)].into_iter().chain(trained.iter().copied()).collect();
        let (node, results) =
            self.graph.create(Fetch { stored, shape, to }.into(), &inputs, &format!("{name}.w"), origin)?;
        self.order.push(node);
        Ok(results[0])
    }
}
