//! Scaled dot-product attention.

use super::{made_by, scaled};
use crate::error::Result;
use crate::ir::{NodeId, Rewriter, ValueId, broadcast};
use crate::ops::{Attention, Op, Reshape, Transpose};

/// softmax(c (a q) (b k)^T + mask) v = Attention(q, k, v, mask) with scale a b c
pub(super) fn attention(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let (Op::MatMul(outer), [Some(p), Some(v)]) = (&node.op, node.inputs.as_slice()) else { return Ok(None) };
    let (outer, p, v) = (outer.clone(), *p, *v);
    let Some(softmax) = r.graph.producer(p) else { return Ok(None) };
    let (Op::Softmax(s), Some(scores)) = (&softmax.op, softmax.inputs[0]) else { return Ok(None) };
    let shape = r.graph.ty(p).shape.clone();
    let rank = shape.len();
    if outer.trans_a
        || s.axis + 1 != rank
        || !(3..=4).contains(&rank)
        || !super::inner(r, p)
        || r.graph.ty(v).rank() != rank
    {
        return Ok(None);
    }
    let Some((mut scale, product, mask)) = split_mask(r, scores) else { return Ok(None) };
    let Some(node) = r.graph.producer(product) else { return Ok(None) };
    let (Op::MatMul(inner), [Some(q), Some(k)]) = (&node.op, node.inputs.as_slice()) else { return Ok(None) };
    let (inner, q, k) = (inner.clone(), *q, *k);
    if inner.trans_a || [q, k].iter().any(|t| r.graph.ty(*t).shape[..rank - 2] != shape[..rank - 2]) {
        return Ok(None);
    }
    let (a, q) = scaled(r.graph, q);
    let (b, k) = scaled(r.graph, k);
    scale *= a * b;
    if r.graph.ty(v).shape[..rank - 2] != shape[..rank - 2] {
        return Ok(None);
    }
    let mut turn = vec![0, 1, 2, 3];
    turn.truncate(rank);
    turn.swap(rank - 2, rank - 1);
    let mut k = if inner.trans_b { k } else { r.emit(Transpose { perm: turn.clone() }, &[k])? };
    let mut v = if outer.trans_b { r.emit(Transpose { perm: turn }, &[v])? } else { v };
    let (mut q, mut mask) = (q, mask);
    if rank == 3 {
        for x in [&mut q, &mut k, &mut v] {
            *x = with_batch(r, *x)?;
        }
        if let Some(m) = &mut mask
            && r.graph.ty(*m).rank() == 3
        {
            *m = with_batch(r, *m)?;
        }
    }
    let y = r.emit_all(Attention { scale, half: false }, &[Some(q), Some(k), Some(v), mask])?[0];
    if rank == 3 {
        let shape = r.graph.ty(y).shape[1..].to_vec();
        return r.emit(Reshape { shape }, &[y]).map(|y| Some(vec![y]));
    }
    Ok(Some(vec![y]))
}

/// Scores as `scale * product + mask`. The mask must be constant with respect to training: something broadcast, not a score.
fn split_mask(r: &Rewriter<'_>, scores: ValueId) -> Option<(f64, ValueId, Option<ValueId>)> {
    let product = |v: ValueId| {
        let (scale, rest) = scaled(r.graph, v);
        let found = matches!(r.graph.producer(rest)?.op, Op::MatMul(_));
        found.then_some((scale, rest))
    };
    if let Some((scale, rest)) = product(scores) {
        return Some((scale, rest, None));
    }
    let [a, b] = made_by(r.graph, scores, "add")?;
    let shape = &r.graph.ty(scores).shape;
    [(a, b), (b, a)].into_iter().find_map(|(x, mask)| {
        let (scale, rest) = product(x)?;
        let own = &r.graph.ty(mask).shape;
        let fits = r.graph.ty(x).shape == *shape
            && broadcast(own, shape).as_ref() == Some(shape)
            && !r.graph.depends_on_weight(mask);
        fits.then_some((scale, rest, Some(mask)))
    })
}

fn with_batch(r: &mut Rewriter<'_>, x: ValueId) -> Result<ValueId> {
    let mut shape = vec![1];
    shape.extend(&r.graph.ty(x).shape);
    r.emit(Reshape { shape }, &[x])
}
