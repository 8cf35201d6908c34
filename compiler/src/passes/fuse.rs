//! Fuse: the gather of a dense weight gradient becomes a sampled product, so that the dense gradient never exists.

use crate::error::Result;
use crate::ir::{Graph, NodeId, Rewriter, ValueId, rewrite};
use crate::ops::{Binary, MaskedConvGrad, MaskedMatMulGrad, Op, Reshape, Take};

/// Runs the pass.
pub fn run(graph: &mut Graph) -> Result<()> {
    // A gather moves past one operator at each application, so the rule runs until nothing changes.
    while rewrite(graph, push_take)? > 0 {}
    Ok(())
}

fn push_take(r: &mut Rewriter<'_>, id: NodeId) -> Result<Option<Vec<ValueId>>> {
    let node = r.graph.node(id);
    let (Op::Take(_), [Some(dense), Some(index)]) = (&node.op, node.inputs.as_slice()) else { return Ok(None) };
    let (dense, index) = (*dense, *index);
    let Some(producer) = r.graph.producer(dense) else { return Ok(None) };
    let (op, inputs) = (producer.op.clone(), producer.inputs.clone());
    let operand = |i: usize| inputs.get(i).copied().flatten();
    let taken = match (&op, operand(0), operand(1)) {
        // Take(Reshape(x), idx) = Take(x, idx)
        (Op::Reshape(_), Some(x), _) => r.emit(Take {}, &[x, index])?,
        // Take(a + b, idx) = Take(a, idx) + Take(b, idx)
        (Op::Binary(b), Some(x), Some(y)) if b.op == "add" && r.graph.ty(x) == r.graph.ty(y) => {
            let parts = [r.emit(Take {}, &[x, index])?, r.emit(Take {}, &[y, index])?];
            r.emit(Binary { op: "add".into() }, &parts)?
        }
        // Take(a * c, idx) = Take(a, idx) * c for a scalar c
        (Op::Binary(b), Some(x), Some(c)) if ["mul", "div"].contains(&b.op.as_str()) && r.graph.ty(c).len() == 1 => {
            let part = r.emit(Take {}, &[x, index])?;
            let c = if r.graph.ty(c).rank() <= 1 { c } else { r.emit(Reshape { shape: vec![] }, &[c])? };
            r.emit(b.clone(), &[part, c])?
        }
        // Take(sum_b A_b' B_b, idx) and Take(A' B, idx) are sampled products
        (Op::Reduce(reduce), Some(x), _) if reduce.op == "sum" && reduce.axes == [0] && r.graph.ty(x).rank() == 3 => {
            let Some(Op::MatMul(m)) = r.graph.producer(x).map(|p| p.op.clone()) else { return Ok(None) };
            let Some([Some(a), Some(b)]) = r.graph.producer(x).map(|p| [p.inputs[0], p.inputs[1]]) else {
                return Ok(None);
            };
            let shape = r.graph.ty(x).shape.clone();
            if r.graph.ty(a).rank() != 3
                || r.graph.ty(b).rank() != 3
                || r.graph.ty(a).shape[0] != r.graph.ty(b).shape[0]
            {
                return Ok(None);
            }
            let op = MaskedMatMulGrad { rows: shape[1], cols: shape[2], a_t: !m.trans_a, b_t: m.trans_b };
            r.emit(op, &[a, b, index])?
        }
        (Op::MatMul(m), Some(a), Some(b)) if r.graph.ty(dense).rank() == 2 => {
            let shape = r.graph.ty(dense).shape.clone();
            let op = MaskedMatMulGrad { rows: shape[0], cols: shape[1], a_t: !m.trans_a, b_t: m.trans_b };
            r.emit(op, &[a, b, index])?
        }
        // Take(ConvGradWeight(x, dy), idx) is a sampled product
        (Op::ConvGradWeight(c), Some(x), Some(dy)) => {
            let op = MaskedConvGrad {
                kernel: c.kernel.clone(),
                groups: c.groups,
                strides: c.strides.clone(),
                pads: c.pads.clone(),
                dilations: c.dilations.clone(),
            };
            r.emit(op, &[x, dy, index])?
        }
        _ => return Ok(None),
    };
    Ok(Some(vec![taken]))
}
