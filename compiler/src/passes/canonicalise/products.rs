//! Transposes merge with each other and into matrix products.

use crate::error::Result;
use crate::ir::{NodeId, Rewriter, ValueId};
use crate::ops::{MatMul, Op, Transpose};

/// Transpose(Transpose(x, p), q) = Transpose(x, p[q])
pub(super) fn transposes(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let (Op::Transpose(outer), Some(x)) = (&node.op, node.inputs[0]) else { return Ok(None) };
    let Some((Op::Transpose(inner), Some(source))) = r.graph.producer(x).map(|p| (p.op.clone(), p.inputs[0])) else {
        return Ok(None);
    };
    let perm: Vec<usize> = outer.perm.iter().map(|&i| inner.perm[i]).collect();
    if perm.is_sorted() {
        return Ok(Some(vec![source]));
    }
    r.emit(Transpose { perm }, &[source]).map(|y| Some(vec![y]))
}

/// a Transpose(b) = MatMul with the operand taken as transposed, where the last two dimensions are swapped
pub(super) fn matmul(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let (Op::MatMul(op), [Some(a), Some(b)]) = (&node.op, node.inputs.as_slice()) else { return Ok(None) };
    let (op, a, b) = (op.clone(), *a, *b);
    let (turned_a, turned_b) = (swapped(r, a), swapped(r, b));
    if turned_a.is_none() && turned_b.is_none() {
        return Ok(None);
    }
    let op = MatMul { trans_a: op.trans_a ^ turned_a.is_some(), trans_b: op.trans_b ^ turned_b.is_some() };
    r.emit(op, &[turned_a.unwrap_or(a), turned_b.unwrap_or(b)]).map(|y| Some(vec![y]))
}

/// The operand of a transpose that swaps the last two dimensions and nothing else.
fn swapped(r: &Rewriter<'_>, value: ValueId) -> Option<ValueId> {
    let producer = r.graph.producer(value)?;
    let Op::Transpose(t) = &producer.op else { return None };
    let n = t.perm.len();
    let swap = n >= 2 && t.perm[n - 2..] == [n - 1, n - 2] && t.perm[..n - 2].is_sorted();
    if swap { producer.inputs[0] } else { None }
}
