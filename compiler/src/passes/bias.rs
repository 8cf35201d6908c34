//! Bias: what is added to a product is added by the product: a vector to each of its rows, and a tensor of its own shape.

use crate::error::Result;
use crate::ir::{Graph, NodeId, Rewriter, ValueId, rewrite};
use crate::ops::{Binary, MatMul, Op, Reshape};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    rewrite(graph, add_vector)?;
    rewrite(graph, add_tensor)?;
    Ok(())
}

/// MatMul(a, b) + bias = MatMul(a, b, bias)
fn add_vector(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    for (product, bias) in sums(r, id) {
        let Some((op, [a, b, None, None])) = operands(r, product) else { continue };
        let ty = r.graph.ty(bias);
        if r.graph.ty(product).shape.last() != Some(&ty.len()) || ty.shape.last() != Some(&ty.len()) {
            continue;
        }
        let bias = if ty.rank() == 1 { bias } else { r.emit(Reshape { shape: vec![ty.len()] }, &[bias])? };
        return r.emit_all(op, &[a, b, Some(bias)]).map(Some);
    }
    Ok(None)
}

/// MatMul(a, b, bias) + c = MatMul(a, b, bias, c)
fn add_tensor(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    for (product, c) in sums(r, id) {
        let Some((op, [a, b, bias, None])) = operands(r, product) else { continue };
        if r.graph.ty(product) == r.graph.ty(c) {
            return r.emit_all(op, &[a, b, bias, Some(c)]).map(Some);
        }
    }
    Ok(None)
}

/// The operands of a sum, either first.
fn sums(r: &Rewriter<'_>, id: NodeId) -> Vec<(ValueId, ValueId)> {
    match (&r.graph.node(id).op, r.graph.node(id).inputs.as_slice()) {
        (Op::Binary(Binary { op }), [Some(x), Some(y)]) if op == "add" => vec![(*x, *y), (*y, *x)],
        _ => Vec::new(),
    }
}

/// The operands of a product that nothing else reads.
fn operands(r: &Rewriter<'_>, product: ValueId) -> Option<(MatMul, [Option<ValueId>; 4])> {
    let producer = r.graph.producer(product).filter(|_| r.used_once(product))?;
    let Op::MatMul(op) = &producer.op else { return None };
    let operand = |slot: usize| producer.inputs.get(slot).copied().flatten();
    Some((op.clone(), [operand(0), operand(1), operand(2), operand(3)]))
}
