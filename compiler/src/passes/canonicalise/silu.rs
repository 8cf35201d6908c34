//! The logistic function, SiLU and its scaled form.

use super::{binary, made_by, scaled, unary};
use crate::error::Result;
use crate::ir::{NodeId, Rewriter, ValueId};
use crate::ops::{Op, Unary};

/// 1 / (1 + exp(-x)) = sigmoid(x), and x / (1 + exp(-x)) = silu(x)
pub(super) fn sigmoid(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let reciprocal = matches!(&node.op, Op::Unary(u) if u.op == "reciprocal");
    let (top, sum) = match (binary(r.graph, id, "div"), node.inputs[0]) {
        (Some([top, sum]), _) => (Some(top), sum),
        (None, Some(sum)) if reciprocal => (None, sum),
        _ => return Ok(None),
    };
    let Some([a, b]) = made_by(r.graph, sum, "add") else { return Ok(None) };
    let found = [(a, b), (b, a)].into_iter().find_map(|(one, e)| {
        let exponent = unary(r.graph, e, "exp").filter(|_| r.graph.scalar(one) == Some(1.0))?;
        unary(r.graph, exponent, "neg").or_else(|| match scaled(r.graph, exponent) {
            (-1.0, x) => Some(x),
            _ => None,
        })
    });
    let Some(x) = found else { return Ok(None) };
    let op = match top {
        None => "sigmoid",
        Some(top) if r.graph.scalar(top) == Some(1.0) => "sigmoid",
        Some(top) if top == x => "silu",
        Some(_) => return Ok(None),
    };
    r.emit(Unary { op: op.into(), alpha: 0.0, beta: 0.0 }, &[x]).map(|y| Some(vec![y]))
}

/// x * sigmoid(x) = silu(x), and x * sigmoid(a x) = quick_gelu(x)
pub(super) fn silu(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let Some([a, b]) = binary(r.graph, id, "mul") else { return Ok(None) };
    for (x, gate) in [(a, b), (b, a)] {
        let Some(argument) = unary(r.graph, gate, "sigmoid") else { continue };
        if argument == x {
            let op = Unary { op: "silu".into(), alpha: 0.0, beta: 0.0 };
            return r.emit(op, &[x]).map(|y| Some(vec![y]));
        }
        let (alpha, rest) = scaled(r.graph, argument);
        if rest == x {
            let op = Unary { op: "quick_gelu".into(), alpha, beta: 0.0 };
            return r.emit(op, &[x]).map(|y| Some(vec![y]));
        }
    }
    Ok(None)
}
