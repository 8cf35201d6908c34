//! GELU in its exact and its tanh form (Hendrycks and Gimpel 2016).

use super::{close, factors, made_by, scaled, unary};
use crate::error::Result;
use crate::ir::{Graph, NodeId, Rewriter, ValueId};
use crate::ops::{Op, Unary};

/// 0.5 x (1 + erf(x / sqrt 2)) = gelu(x)
pub(super) fn erf(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    replace(r, id, "gelu", |graph, x, u| {
        let Some(argument) = unary(graph, u, "erf") else { return false };
        let (scale, rest) = scaled(graph, argument);
        rest == x && close(scale, std::f64::consts::FRAC_1_SQRT_2)
    })
}

/// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = gelu_tanh(x)
pub(super) fn tanh(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    replace(r, id, "gelu_tanh", |graph, x, u| {
        let Some(argument) = unary(graph, u, "tanh") else { return false };
        let (scale, sum) = scaled(graph, argument);
        let Some([a, b]) = made_by(graph, sum, "add") else { return false };
        let cubic = |v: ValueId| {
            let (c, rest) = scaled(graph, v);
            close(c, 0.044_715) && is_cube(graph, rest, x)
        };
        close(scale, (2.0 / std::f64::consts::PI).sqrt()) && ((a == x && cubic(b)) || (b == x && cubic(a)))
    })
}

/// Replaces `0.5 * x * (1 + u)` by `op(x)` where `matches(graph, x, u)`.
fn replace(
    r: &mut Rewriter<'_>,
    id: NodeId,
    op: &str,
    matches: fn(&Graph, ValueId, ValueId) -> bool,
) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    if !matches!(&node.op, Op::Binary(b) if b.op == "mul") {
        return Ok(None);
    }
    let mut parts = Vec::new();
    let scale = factors(r.graph, node.outputs[0], &mut parts);
    let [a, b] = parts[..] else { return Ok(None) };
    if !close(scale, 0.5) {
        return Ok(None);
    }
    for (x, sum) in [(a, b), (b, a)] {
        let Some([p, q]) = made_by(r.graph, sum, "add") else { continue };
        let u = match (r.graph.scalar(p), r.graph.scalar(q)) {
            (Some(1.0), _) => q,
            (_, Some(1.0)) => p,
            _ => continue,
        };
        if matches(r.graph, x, u) {
            let op = Unary { op: op.to_owned(), alpha: 0.0, beta: 0.0 };
            return r.emit(op, &[x]).map(|y| Some(vec![y]));
        }
    }
    Ok(None)
}

/// Whether `value` is `x^3`.
fn is_cube(graph: &Graph, value: ValueId, x: ValueId) -> bool {
    if let Some([base, exponent]) = made_by(graph, value, "pow") {
        return base == x && graph.scalar(exponent) == Some(3.0);
    }
    let mut parts = Vec::new();
    factors(graph, value, &mut parts) == 1.0 && parts == [x, x, x]
}
