//! Local functions are inlined where they are called, and subgraphs where they run.

use super::Importer;
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetId};
use crate::error::{Error, Result};
use crate::ir::ValueId;
use crate::limits::NESTING;
use std::collections::{HashMap, HashSet};

impl<'m> Importer<'m> {
    /// The function that a node calls, if it calls one.
    pub(super) fn function(&self, node: &NodeProto) -> Option<&'m FunctionProto> {
        let plain = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let same = |f: &&FunctionProto| {
            f.name == node.op_type
                && f.overload == node.overload
                && (f.domain == node.domain || (plain(&f.domain) && plain(&node.domain)))
        };
        self.functions.iter().find(same)
    }

    /// The results of a function at the operands and attributes of the node that calls it.
    pub(super) fn inline(&mut self, function: &FunctionProto, node: &NodeProto) -> Result<Vec<ValueId>> {
        let given = |i: usize| node.input.get(i).filter(|n| !n.is_empty()).and_then(|n| self.scopes.get(n));
        let operands: Vec<Option<ValueId>> = (0..function.input.len()).map(given).collect();
        let absent: HashSet<&str> =
            function.input.iter().zip(&operands).filter(|o| o.1.is_none()).map(|o| o.0.as_str()).collect();
        let mut actual: HashMap<&str, &AttributeProto> =
            function.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
        actual.extend(node.attribute.iter().map(|a| (a.name.as_str(), a)));
        let nodes: Vec<NodeProto> = function.node.iter().map(|n| substitute(n, &actual, &absent)).collect();
        let outer = (std::mem::take(&mut self.scopes), self.opset);
        self.opset = default_opset(&function.opset_import).unwrap_or(self.opset);
        let results = self.nested(|importer| {
            for (name, value) in function.input.iter().zip(&operands) {
                if let Some(value) = value {
                    importer.define(name, *value)?;
                }
            }
            importer.nodes(&nodes)?;
            importer.named(function.output.iter().map(String::as_str))
        });
        (self.scopes, self.opset) = outer;
        results
    }

    /// The results of a subgraph whose inputs are these values.
    pub(crate) fn subgraph(&mut self, graph: &GraphProto, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        if inputs.len() != graph.input.len() {
            let reason = format!("a subgraph takes {} operands and is given {}", graph.input.len(), inputs.len());
            return Err(Error::file(self.model.path(), reason));
        }
        self.scopes.push();
        let results = self.nested(|importer| {
            for tensor in &graph.initializer {
                let value = importer.tensor(&tensor.name, tensor)?;
                importer.define(&tensor.name, value)?;
            }
            for (input, value) in graph.input.iter().zip(inputs) {
                importer.define(&input.name, *value)?;
            }
            importer.nodes(&graph.node)?;
            importer.named(graph.output.iter().map(|o| o.name.as_str()))
        });
        self.scopes.pop();
        results
    }

    fn nested<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == NESTING {
            let reason = format!("nests functions or subgraphs more than {NESTING} deep, or a function calls itself");
            return Err(Error::file(self.model.path(), reason));
        }
        self.depth += 1;
        let result = body(self);
        self.depth -= 1;
        result
    }

    fn named<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<ValueId>> {
        let missing = |name: &str| {
            Error::file(self.model.path(), format!("result `{name}` of a function or subgraph is produced by no node"))
        };
        names.map(|name| self.scopes.get(name).ok_or_else(|| missing(name))).collect()
    }
}

/// Version of the default operator set.
pub(super) fn default_opset(sets: &[OperatorSetId]) -> Option<i64> {
    sets.iter().find(|o| o.domain.is_empty() || o.domain == "ai.onnx").map(|o| o.version)
}

/// A node of a function with the attributes of the call in place of the references to them.
fn substitute(node: &NodeProto, actual: &HashMap<&str, &AttributeProto>, absent: &HashSet<&str>) -> NodeProto {
    let mut node = node.clone();
    for input in node.input.iter_mut().filter(|i| absent.contains(i.as_str())) {
        input.clear();
    }
    let attributes = std::mem::take(&mut node.attribute);
    node.attribute = attributes
        .into_iter()
        .filter_map(|mut attribute| {
            if !attribute.ref_attr_name.is_empty() {
                let given = *actual.get(attribute.ref_attr_name.as_str())?;
                return Some(AttributeProto { name: attribute.name, ..given.clone() });
            }
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                graph.node = graph.node.iter().map(|n| substitute(n, actual, absent)).collect();
            }
            Some(attribute)
        })
        .collect();
    node
}
