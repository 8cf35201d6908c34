//! The graph as petgraph sees it: nodes are operator applications, edges run from producer to user.

use super::{Def, Graph, NodeId};
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::HashMap;

/// A directed graph over the nodes in program order. Edge weights are bytes of the value that flows.
pub fn view(graph: &Graph) -> DiGraph<NodeId, usize> {
    let mut view = DiGraph::new();
    let mut at: HashMap<NodeId, NodeIndex> = HashMap::new();
    for id in graph.program() {
        let here = view.add_node(id);
        at.insert(id, here);
        for input in graph.node(id).inputs.iter().flatten() {
            if let Def::Node(from, _) = graph.value(*input).def
                && let Some(from) = at.get(&from)
            {
                view.add_edge(*from, here, graph.ty(*input).bytes());
            }
        }
    }
    view
}

/// The graph in Graphviz's language.
pub fn dot(graph: &Graph) -> String {
    let view = view(graph);
    let label = |_, (_, id): (NodeIndex, &NodeId)| format!("label=\"{}\"", graph.node(*id).op.name());
    let edge = |_, _| String::new();
    format!("{:?}", petgraph::dot::Dot::with_attr_getters(&view, &[petgraph::dot::Config::NodeNoLabel], &edge, &label))
}
