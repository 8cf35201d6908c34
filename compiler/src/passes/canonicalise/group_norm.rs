//! Group normalisation, which exporters write as instance or layer normalisation of reshaped groups, then a scale and a bias.

use super::binary;
use crate::error::Result;
use crate::ir::{NodeId, Rewriter, ValueId};
use crate::ops::{GroupNorm, Op, Reshape};

/// Reshape(InstanceNorm(Reshape(x, [n, g, -1]), 1, 0), shape of x) = GroupNorm(x) of g groups, and so for LayerNorm from axis 2 on
pub(super) fn group_norm(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let (Op::Reshape(_), Some(normal)) = (&node.op, node.inputs[0]) else { return Ok(None) };
    let shape = r.graph.ty(node.outputs[0]).shape.clone();
    let Some(norm) = r.graph.producer(normal) else { return Ok(None) };
    let ([Some(grouped), scale, bias], Some(epsilon)) = (norm.inputs.as_slice(), of_groups(&norm.op)) else {
        return Ok(None);
    };
    let plain = scale.is_none_or(|s| r.graph.uniform_value(s) == Some(1.0))
        && bias.is_none_or(|b| r.graph.uniform_value(b) == Some(0.0));
    let Some(view) = r.graph.producer(*grouped).filter(|p| matches!(p.op, Op::Reshape(_))) else { return Ok(None) };
    let Some(x) = view.inputs[0] else { return Ok(None) };
    let split = &r.graph.ty(*grouped).shape;
    let groups = split.get(1).copied().unwrap_or(0);
    let apart = !matches!(&norm.op, Op::GroupNorm(op) if op.groups != groups);
    let fits = r.graph.ty(x).shape == shape
        && shape.len() >= 2
        && apart
        && groups > 0
        && split[0] == shape[0]
        && shape[1].is_multiple_of(groups)
        && norm.outputs[0] == normal;
    if !plain || !fits {
        return Ok(None);
    }
    let op = GroupNorm { groups, epsilon };
    r.emit_all(op, &[Some(x), None, None]).map(|y| Some(vec![y[0]]))
}

/// The epsilon of a normalisation that takes each element of the first two dimensions on its own.
fn of_groups(op: &Op) -> Option<f64> {
    match op {
        Op::GroupNorm(op) => Some(op.epsilon),
        Op::LayerNorm(op) if op.axis == 2 => Some(op.epsilon),
        _ => None,
    }
}

/// GroupNorm(x) * scale = GroupNorm(x, scale), and GroupNorm(x, scale) + bias = GroupNorm(x, scale, bias)
pub(super) fn affine(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    for (word, slot) in [("mul", 1), ("add", 2)] {
        let Some([a, b]) = binary(r.graph, id, word) else { continue };
        for (normal, factor) in [(a, b), (b, a)] {
            let Some(norm) = r.graph.producer(normal) else { continue };
            let (Op::GroupNorm(op), [Some(x), scale, None]) = (&norm.op, norm.inputs.as_slice()) else { continue };
            let channels = r.graph.ty(*x).shape[1];
            let open = slot == 2 || scale.is_none();
            let per_channel = {
                let (own, rank) = (&r.graph.ty(factor).shape, r.graph.ty(*x).rank());
                let aligned = |i: usize| if i + own.len() < rank { 1 } else { own[i + own.len() - rank] };
                own.len() <= rank && (0..rank).all(|i| aligned(i) == if i == 1 { channels } else { 1 })
            };
            if !open || !per_channel || norm.outputs[0] != normal || !super::inner(r, normal) {
                continue;
            }
            let (op, x, scale) = (op.clone(), *x, *scale);
            let flat = r.emit(Reshape { shape: vec![channels] }, &[factor])?;
            let inputs = if slot == 1 { [Some(x), Some(flat), None] } else { [Some(x), scale, Some(flat)] };
            return r.emit_all(op, &inputs).map(|y| Some(vec![y[0]]));
        }
    }
    Ok(None)
}
