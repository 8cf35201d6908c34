//! Narrow: weights that only products and convolutions multiply by are stored in half precision.
//!
//! In bfloat16 the products of attention are of half precision too. In fp16 they are not: their operands are no weights, and gradients
//! among them leave its range. A weight beyond 65504 becomes 65504 in fp16, for the reason in `keep`. What trains keeps its values in
//! single precision beside the weight, so that steps smaller than a rounding are not lost. Weights of normalisations, biases and tables
//! stay as they are.

use super::Context;
use crate::compile::Precision;
use crate::error::Result;
use crate::ir::{Block, Def, Graph, NodeId, ValueId};
use crate::ops::Op;
use sara_kernels::DType;

/// Runs the pass.
pub fn run(graph: &mut Graph, context: &Context<'_>) -> Result<()> {
    let Some(half) = context.precision.half() else { return Ok(()) };
    for id in graph.block(Block::Forward).to_vec() {
        if let Op::Attention(attention) = graph.op_mut(id) {
            attention.half = context.precision == Precision::Bf16;
        }
    }
    let users = graph.users();
    let weights: Vec<ValueId> = graph
        .values()
        .filter(|(_, v)| matches!(v.def, Def::Weight(_)) && v.ty.dtype == DType::F32)
        .map(|(id, _)| id)
        .collect();
    for weight in weights {
        let mut views = Vec::new();
        if multiplied(graph, &users, weight, &mut views) {
            views.into_iter().for_each(|view| graph.set_dtype(view, half));
        }
    }
    Ok(())
}

/// Whether nothing but products reads a weight. Collects it and its views.
fn multiplied(graph: &Graph, users: &[Vec<NodeId>], value: ValueId, views: &mut Vec<ValueId>) -> bool {
    views.push(value);
    let readers = &users[value.0 as usize];
    let returned = graph.returns.iter().any(|r| r.1 == value);
    !returned
        && !readers.is_empty()
        && readers.iter().all(|id| {
            let node = graph.node(*id);
            match node.op {
                // Not what a product adds.
                Op::MatMul(_) => node.inputs.iter().skip(2).all(|i| *i != Some(value)),
                // Not the input of a convolution, nor its bias.
                Op::Conv(_) => {
                    node.inputs[1] == Some(value) && node.inputs.iter().filter(|i| **i == Some(value)).count() == 1
                }
                Op::Reshape(_) => multiplied(graph, users, node.outputs[0], views),
                _ => false,
            }
        })
}
