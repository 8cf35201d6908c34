//! Canonicalise: patterns that exporters write with several nodes become the one operator they mean.
//!
//! Each file is one pattern; each rule has its algebra on the line above it.

mod attention;
mod gelu;
mod glu;
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
    ("GLU", glu::glu),
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

/// Whether an exported constant is the number `wanted`: to the precision in which exporters write it, or as it, or its reciprocal for
/// a division, is in half precision.
fn close(found: f64, wanted: f64) -> bool {
    let halves = |v: f64| [half::f16::from_f64(v).to_f64(), half::bf16::from_f64(v).to_f64()];
    let is = |wanted: f64, found: f64| (found - wanted).abs() <= 1e-6 * wanted.abs();
    (found - wanted).abs() <= 1e-4 * wanted.abs()
        || halves(wanted).iter().any(|half| is(*half, found))
        || halves(1.0 / wanted).iter().any(|half| is(1.0 / *half, found))
}

/// Whether a rule on `id` may drop the value: nothing but the pattern reads it.
fn inner(r: &Rewriter<'_>, value: ValueId) -> bool {
    r.used_once(value)
}

#[cfg(test)]
mod tests {
    use super::close;

    #[test]
    fn constants_may_be_rounded_to_half_precision() {
        let root = std::f64::consts::FRAC_1_SQRT_2;
        // The square root of 2 in fp16 and in bf16; 0.044715 in both; what is not a rounding of what is wanted.
        for found in [root, root + 1e-8, 1.0 / 1.4140625, 0.70703125, 0.70654296875] {
            assert_eq!(close(found, root), found != 0.70654296875, "{found}");
        }
        assert!(close(0.044708251953125, 0.044715) && close(0.044677734375, 0.044715) && !close(0.0446, 0.044715));
    }
}
