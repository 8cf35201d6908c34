//! SiLU and its scaled form.

use super::{binary, scaled, unary};
use crate::error::Result;
use crate::ir::{NodeId, Rewriter, ValueId};
use crate::ops::Unary;

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
