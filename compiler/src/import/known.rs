//! What is known at import of values that are made of weights: real tables stay in the file as weights, and yet a node may need
//! one, such as the scales of a Resize, that exporters put together from several.

use super::{Importer, read_weight};
use crate::error::Result;
use crate::evaluate::evaluate;
use crate::ir::{Def, Graph, Payload, ValueId};
use std::collections::HashMap;

/// Values of more elements are not computed for this purpose.
const MOST_ELEMENTS: usize = 1 << 12;
/// Values that more nodes lie behind are not computed for this purpose.
const MOST_NODES: usize = 64;

impl Importer<'_> {
    /// Bytes of a small value that depends on no input; `None` for others.
    pub(super) fn computed(&self, value: ValueId) -> Result<Option<Vec<u8>>> {
        let mut graph = Graph::new("known");
        let Some(copy) = self.copy(value, &mut graph, &mut HashMap::new())? else { return Ok(None) };
        match &graph.value(copy).def {
            Def::Const(Payload::Known(bytes)) => Ok(Some(bytes.to_vec())),
            _ => Ok(None),
        }
    }

    /// The value as a constant of `graph`.
    fn copy(&self, value: ValueId, graph: &mut Graph, done: &mut HashMap<ValueId, ValueId>) -> Result<Option<ValueId>> {
        if let Some(copy) = done.get(&value) {
            return Ok(Some(*copy));
        }
        let own = self.graph.value(value);
        if own.ty.len() > MOST_ELEMENTS || done.len() > MOST_NODES {
            return Ok(None);
        }
        let bytes = match &own.def {
            Def::Const(Payload::Known(bytes)) => bytes.to_vec(),
            Def::Weight(index) => read_weight(self.model, &self.graph.weights[*index])?.to_vec(),
            Def::Node(id, slot) => {
                let node = self.graph.node(*id);
                let mut inputs = Vec::new();
                for input in &node.inputs {
                    let copied = match input {
                        Some(input) => match self.copy(*input, graph, done)? {
                            Some(copied) => Some(copied),
                            None => return Ok(None),
                        },
                        None => None,
                    };
                    inputs.push(copied);
                }
                let (copied, _) = graph.create(node.op.clone(), &inputs, &own.name, &node.origin)?;
                match evaluate(graph, copied)?.into_iter().nth(*slot) {
                    Some(bytes) => bytes,
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        let copy = graph.add_value(&own.name, own.ty.clone(), Def::Const(Payload::Known(bytes.into())));
        done.insert(value, copy);
        Ok(Some(copy))
    }
}
