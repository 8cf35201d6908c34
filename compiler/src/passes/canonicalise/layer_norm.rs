//! Layer and root-mean-square normalisation from primitives, then a scale and a bias.

use super::{binary, made_by, scaled, unary};
use crate::error::Result;
use crate::ir::{Graph, NodeId, Rewriter, ValueId};
use crate::ops::{LayerNorm, Op, Reduce, Reshape, RmsNorm};

/// (x - mean(x)) / sqrt(mean((x - mean(x))^2) + e) = LayerNorm(x), and x / sqrt(mean(x^2) + e) = RmsNorm(x), over trailing axes
pub(super) fn standardise(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let graph = &*r.graph;
    let found = divided(graph, id).into_iter().find_map(|(centred, sum)| {
        let [a, b] = made_by(graph, sum, "add")?;
        let (variance, epsilon) = [(a, b), (b, a)].into_iter().find_map(|(v, e)| Some((v, graph.scalar(e)?)))?;
        let (square, axis) = mean_of(graph, variance)?;
        if !is_square(graph, square, centred) || epsilon < 0.0 {
            return None;
        }
        let source = made_by(graph, centred, "sub")
            .filter(|[x, mean]| mean_of(graph, *mean) == Some((*x, axis)) && graph.ty(*x) == graph.ty(centred));
        Some((source.map_or(centred, |s| s[0]), source.is_some(), axis, epsilon))
    });
    let Some((x, centred, axis, epsilon)) = found else { return Ok(None) };
    let y = match centred {
        true => r.emit_all(LayerNorm { axis, epsilon }, &[Some(x), None, None])?,
        false => r.emit_all(RmsNorm { axis, epsilon }, &[Some(x), None])?,
    };
    Ok(Some(vec![y[0]]))
}

/// Norm(x) * scale = Norm(x, scale), and LayerNorm(x, scale) + bias = LayerNorm(x, scale, bias), where they have the shape of a row
pub(super) fn affine(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    for (word, slot) in [("mul", 1), ("add", 2)] {
        let Some([a, b]) = binary(r.graph, id, word) else { continue };
        for (normal, factor) in [(a, b), (b, a)] {
            let Some(norm) = r.graph.producer(normal) else { continue };
            let (axis, open) = match (&norm.op, norm.inputs.as_slice()) {
                (Op::LayerNorm(op), [_, scale, None]) => (op.axis, slot == 2 || scale.is_none()),
                (Op::RmsNorm(op), [_, None]) => (op.axis, slot == 1),
                _ => continue,
            };
            let row = r.graph.ty(normal).shape[axis..].to_vec();
            let own = &r.graph.ty(factor).shape;
            let lead = own.len().saturating_sub(row.len());
            let fits = own[lead..] == row[..] && own[..lead].iter().all(|d| *d == 1) && own.len() <= axis + row.len();
            if !open || !fits || norm.outputs[0] != normal || !super::inner(r, normal) {
                continue;
            }
            let (op, mut inputs) = (norm.op.clone(), norm.inputs.clone());
            let flat = r.graph.ty(factor).shape == row;
            inputs[slot] = Some(if flat { factor } else { r.emit(Reshape { shape: row }, &[factor])? });
            return r.emit_all(op, &inputs).map(|y| Some(vec![y[0]]));
        }
    }
    Ok(None)
}

/// The node as `a / sqrt(b)`, in each way in which it can be read.
fn divided(graph: &Graph, id: NodeId) -> Vec<(ValueId, ValueId)> {
    if let Some([a, root]) = binary(graph, id, "div") {
        return unary(graph, root, "sqrt").map(|b| (a, b)).into_iter().collect();
    }
    let Some([a, b]) = binary(graph, id, "mul") else { return Vec::new() };
    [(a, b), (b, a)].into_iter().filter_map(|(a, r)| Some((a, root_below_one(graph, r)?))).collect()
}

/// `b`, if the value is `1 / sqrt(b)`.
fn root_below_one(graph: &Graph, value: ValueId) -> Option<ValueId> {
    if let Some([base, exponent]) = made_by(graph, value, "pow") {
        return (graph.scalar(exponent) == Some(-0.5)).then_some(base);
    }
    if let Some([one, root]) = made_by(graph, value, "div") {
        return if graph.scalar(one) == Some(1.0) { unary(graph, root, "sqrt") } else { None };
    }
    unary(graph, unary(graph, value, "reciprocal")?, "sqrt")
}

fn is_square(graph: &Graph, value: ValueId, x: ValueId) -> bool {
    made_by(graph, value, "mul") == Some([x, x])
        || made_by(graph, value, "pow").is_some_and(|[base, exponent]| base == x && graph.scalar(exponent) == Some(2.0))
}

/// What `value` is the mean of over the axes from the one that is returned on, which it keeps.
fn mean_of(graph: &Graph, value: ValueId) -> Option<(ValueId, usize)> {
    let (mut factor, mut value) = (1.0, value);
    let kept = graph.ty(value).shape.clone();
    loop {
        let (scale, rest) = scaled(graph, value);
        (factor, value) = (factor * scale, rest);
        let node = graph.producer(value)?;
        match &node.op {
            Op::Reshape(_) => value = node.inputs[0]?,
            Op::Reduce(Reduce { op, axes, .. }) => {
                let x = node.inputs[0]?;
                let shape = &graph.ty(x).shape;
                let axis = *axes.first()?;
                let count: usize = shape[axis..].iter().product();
                let share = match op.as_str() {
                    "mean" => factor,
                    "sum" => factor * count as f64,
                    _ => return None,
                };
                let whole = (share - 1.0).abs() < 1e-6;
                let trailing = axes.iter().copied().eq(axis..shape.len());
                let row = (0..shape.len()).map(|i| if i < axis { shape[i] } else { 1 });
                return (whole && trailing && kept.iter().copied().eq(row)).then_some((x, axis));
            }
            _ => return None,
        }
    }
}
