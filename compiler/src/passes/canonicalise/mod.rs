//! Canonicalise: patterns that exporters write with several nodes become the one operator they mean.
//!
//! Each file is one pattern; each rule has its algebra on the line above it.

mod attention;
mod gelu;
mod group_norm;
mod layer_norm;
mod products;
mod silu;
mod softmax;

use crate::error::Result;
use crate::ir::{Graph, NodeId, Rewriter, Rule, ValueId, rewrite};
use crate::ops::{Binary, Op};

/// The rules, in the order in which they run, with the names under which they are counted.
pub const RULES: &[(&str, Rule)] = &[
    ("Transpose of Transpose", products::transposes),
    ("MatMul with Transpose", products::matmul),
    ("LayerNorm and RMSNorm", layer_norm::standardise),
    ("LayerNorm and RMSNorm scale and bias", layer_norm::affine),
    ("GroupNorm", group_norm::group_norm),
    ("GroupNorm scale and bias", group_norm::affine),
    ("Sigmoid", silu::sigmoid),
    ("SiLU", silu::silu),
    ("GELU (erf)", gelu::erf),
    ("GELU (tanh)", gelu::tanh),
    ("Softmax", softmax::softmax),
    ("Attention", attention::attention),
    ("Transpose of Transpose", products::transposes),
];

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    for (_, rule) in RULES {
        rewrite(graph, *rule)?;
    }
    super::fold::share(graph);
    Ok(())
}

/// The operands of node `id`, if it is the binary function `op`.
fn binary(graph: &Graph, id: NodeId, op: &str) -> Option<[ValueId; 2]> {
    match (&graph.node(id).op, graph.node(id).inputs.as_slice()) {
        (Op::Binary(Binary { op: found }), [Some(a), Some(b)]) if found == op => Some([*a, *b]),
        _ => None,
    }
}

/// The operands of the node that makes `value`, if it is the binary function `op`.
fn made_by(graph: &Graph, value: ValueId, op: &str) -> Option<[ValueId; 2]> {
    match graph.value(value).def {
        crate::ir::Def::Node(id, _) => binary(graph, id, op),
        _ => None,
    }
}

/// The operand of the elementwise function `op` that makes `value`.
fn unary(graph: &Graph, value: ValueId, op: &str) -> Option<ValueId> {
    match graph.producer(value)? {
        node if matches!(&node.op, Op::Unary(u) if u.op == op) => node.inputs[0],
        _ => None,
    }
}

/// `value` as `factor * rest`, where scalar factors and divisors are taken off as far as they go.
fn scaled(graph: &Graph, mut value: ValueId) -> (f64, ValueId) {
    let mut factor = 1.0;
    loop {
        if let Some([a, b]) = made_by(graph, value, "mul") {
            if let Some(c) = graph.scalar(b) {
                (factor, value) = (factor * c, a);
                continue;
            }
            if let Some(c) = graph.scalar(a) {
                (factor, value) = (factor * c, b);
                continue;
            }
        }
        if let Some([a, b]) = made_by(graph, value, "div")
            && let Some(c) = graph.scalar(b)
        {
            (factor, value) = (factor / c, a);
            continue;
        }
        return (factor, value);
    }
}

/// `value` as a product: its scalar factor and the other factors.
fn factors(graph: &Graph, value: ValueId, out: &mut Vec<ValueId>) -> f64 {
    let (scale, rest) = scaled(graph, value);
    match made_by(graph, rest, "mul") {
        Some([a, b]) if out.len() < 4 => scale * factors(graph, a, out) * factors(graph, b, out),
        _ => {
            out.push(rest);
            scale
        }
    }
}

/// Whether two numbers agree to the precision of exported constants.
fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * b.abs()
}

/// Whether a rule on `id` may drop the value: nothing but the pattern reads it.
fn inner(r: &Rewriter<'_>, value: ValueId) -> bool {
    r.used_once(value)
}
