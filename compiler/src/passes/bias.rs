//! Bias: a vector that is added to each row of a product is added by the product.

use crate::error::Result;
use crate::ir::{Graph, NodeId, Rewriter, ValueId, rewrite};
use crate::ops::{Binary, Op, Reshape};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    rewrite(graph, add).map(|_| ())
}

/// MatMul(a, b) + bias = MatMul(a, b, bias)
fn add(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let (Op::Binary(Binary { op }), [Some(x), Some(y)]) = (&node.op, node.inputs.as_slice()) else { return Ok(None) };
    if op != "add" {
        return Ok(None);
    }
    for (product, bias) in [(*x, *y), (*y, *x)] {
        let Some(producer) = r.graph.producer(product) else { continue };
        let (Op::MatMul(op), [Some(a), Some(b)]) = (&producer.op, producer.inputs.as_slice()) else { continue };
        let (op, a, b) = (op.clone(), *a, *b);
        let columns = r.graph.ty(product).shape.last().copied();
        let ty = r.graph.ty(bias);
        if !r.used_once(product) || ty.shape.last().copied() != columns || columns != Some(ty.len()) {
            continue;
        }
        let bias = match ty.rank() {
            1 => bias,
            _ => r.emit(Reshape { shape: vec![ty.len()] }, &[bias])?,
        };
        return r.emit(op, &[a, b, bias]).map(|y| Some(vec![y]));
    }
    Ok(None)
}
