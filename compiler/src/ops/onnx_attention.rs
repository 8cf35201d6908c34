//! ONNX Attention, versions 23 to 25: masks of every kind, grouped queries, a cache of keys and values.
//!
//! It becomes [`Attention`] over an additive mask, or its primitives where the scores are capped or are a result, or where the mask
//! itself may train. A query that may attend to nothing gives zeros.

use super::{Attention, Concat, Embed, MatMul, Reduce, Select, Softmax, Transpose};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{ValueId, broadcast};
use crate::limits::TABLE;
use sara_kernels::DType;

/// What limits a query to some keys.
struct Reach {
    /// Queries and keys.
    size: [usize; 2],
    /// Keys before the first query, one number or one for each sample `[batch, 1, 1, 1]`.
    offset: ValueId,
}

/// ONNX Attention.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let flat = n.ty(q).rank() == 3;
    let (q_heads, kv_heads) = (n.int("q_num_heads", 0)?, n.int("kv_num_heads", 0)?);
    n.int("softmax_precision", 1)?;
    let (q, k, v) = (heads(n, q, q_heads)?, heads(n, k, kv_heads)?, heads(n, v, kv_heads)?);
    let past = n.optional(4).zip(n.optional(5));
    let before = past.map_or(0, |p| n.ty(p.0).shape.get(2).copied().unwrap_or(0));
    let (k, v) = match past {
        Some((keys, values)) => (join(n, keys, k)?, join(n, values, v)?),
        None => (k, v),
    };
    let ([batch, count, queries, dim], [_, groups, keys, _]) = (four(n, q)?, four(n, k)?);
    if groups == 0 || count % groups != 0 {
        return Err(n.fail(format!("{count} heads of queries do not share {groups} heads of keys")));
    }
    let default = 1.0 / (dim as f64).sqrt();
    let scale = n.float("scale", default)?;
    let scale = if scale == 0.0 { default } else { scale };
    let size = [queries, keys];
    let lengths = n.optional(6).map(|l| n.cast(l, DType::I64)).transpose()?;
    let offset = match lengths {
        Some(lengths) if past.is_none() => {
            let own = n.add_const(DType::I64, &[], &[queries as i64]);
            let lengths = n.reshape(lengths, &[batch, 1, 1, 1])?;
            n.binary("sub", lengths, own)?
        }
        _ => n.add_const(DType::I64, &[], &[before as i64]),
    };
    let mut bias = None;
    if let Some(mask) = n.optional(3) {
        let mask = widen(n, mask, keys)?;
        let mask = if n.ty(mask).dtype == DType::Bool { allow(n, q, mask)? } else { mask };
        add(n, &mut bias, mask)?;
    }
    let reach = Reach { size, offset };
    let (causal, left) = (n.int("is_causal", 0)? != 0, n.int("left_window_size", -1)?);
    let right = n.int("right_window_size", -1)?;
    for (wanted, op, by) in
        [(causal, "less_equal", 0), (right >= 0, "less_equal", right), (left >= 0, "greater_equal", -left)]
    {
        if wanted {
            let allowed = reach.compare(n, op, by)?;
            let part = allow(n, q, allowed)?;
            add(n, &mut bias, part)?;
        }
    }
    if let Some(lengths) = lengths {
        let at = n.add_const(DType::I64, &[keys], &(0..keys as i64).collect::<Vec<_>>());
        let lengths = n.reshape(lengths, &[batch, 1, 1, 1])?;
        let there = n.binary("less", at, lengths)?;
        let part = allow(n, q, there)?;
        add(n, &mut bias, part)?;
    }
    if let Some(bias) = bias
        && broadcast(&n.ty(bias).shape, &[batch, count, queries, keys])
            .is_none_or(|s| s != [batch, count, queries, keys])
    {
        let shape = n.ty(bias).shape.clone();
        return Err(n.fail(format!("a mask of shape {shape:?} does not fit {queries} queries and {keys} keys")));
    }
    let barred = bias.map(|b| barred(n, b)).transpose()?.flatten();
    let (wide_k, wide_v) = (repeat(n, k, count / groups)?, repeat(n, v, count / groups)?);
    let cap = n.float("softcap", 0.0)?;
    let mode = n.int("qk_matmul_output_mode", 0)?;
    let trains = bias.is_some_and(|b| n.graph().depends_on_weight(b));
    let (y, scores) = if cap == 0.0 && n.outputs() < 4 && !trains {
        // A query without keys attends to all of them, so that nothing is divided by zero, and its result is dropped.
        let mask = match (bias, barred) {
            (Some(bias), Some(barred)) => Some(clear(n, bias, barred)?),
            (bias, _) => bias,
        };
        let y = n.emit_all(Attention { scale, half: false }, &[Some(q), Some(wide_k), Some(wide_v), mask])?[0];
        (y, None)
    } else {
        let (weights, scores) = explicit(n, [q, wide_k], bias, barred, [scale, cap], mode)?;
        (n.emit(MatMul { trans_a: false, trans_b: false }, &[weights, wide_v])?, Some(scores))
    };
    let y = match barred {
        Some(barred) => clear(n, y, barred)?,
        None => y,
    };
    let y = if flat {
        let y = n.emit(Transpose { perm: vec![0, 2, 1, 3] }, &[y])?;
        let width = n.ty(y).shape[2] * n.ty(y).shape[3];
        n.reshape(y, &[batch, queries, width])?
    } else {
        y
    };
    Ok([Some(y), Some(k), Some(v), scores].into_iter().flatten().collect())
}

/// The weights of the values, and the scores as the attribute `qk_matmul_output_mode` wants them.
fn explicit(
    n: &mut OnnxNode<'_, '_>,
    [q, k]: [ValueId; 2],
    bias: Option<ValueId>,
    barred: Option<ValueId>,
    [scale, cap]: [f64; 2],
    mode: i64,
) -> Result<(ValueId, ValueId)> {
    let product = n.emit(MatMul { trans_a: false, trans_b: true }, &[q, k])?;
    let factor = n.scalar_like(product, scale)?;
    let plain = n.binary("mul", product, factor)?;
    let capped = match cap {
        0.0 => plain,
        cap => {
            let cap = n.scalar_like(plain, cap)?;
            let ratio = n.binary("div", plain, cap)?;
            let bounded = n.unary("tanh", ratio)?;
            n.binary("mul", bounded, cap)?
        }
    };
    let biased = match bias {
        Some(bias) => n.binary("add", capped, bias)?,
        None => capped,
    };
    let legal = match barred {
        Some(barred) => clear(n, biased, barred)?,
        None => biased,
    };
    let mut weights = n.emit(Softmax { axis: 3 }, &[legal])?;
    if let Some(barred) = barred {
        weights = clear(n, weights, barred)?;
    }
    let scores = match mode {
        0 => plain,
        1 => capped,
        2 => biased,
        3 => weights,
        other => return Err(n.fail(format!("qk_matmul_output_mode {other} is not known"))),
    };
    Ok((weights, scores))
}

/// `[batch, heads, tokens, dim]` from itself or from `[batch, tokens, heads * dim]`.
fn heads(n: &mut OnnxNode<'_, '_>, x: ValueId, count: i64) -> Result<ValueId> {
    let shape = n.ty(x).shape.clone();
    match shape[..] {
        [_, _, _, _] => Ok(x),
        [batch, tokens, width] if count > 0 && width as i64 % count == 0 => {
            let count = count as usize;
            let split = n.reshape(x, &[batch, tokens, count, width / count])?;
            n.emit(Transpose { perm: vec![0, 2, 1, 3] }, &[split])
        }
        _ => Err(n.fail(format!("{shape:?} cannot be divided into {count} heads"))),
    }
}

fn four(n: &OnnxNode<'_, '_>, x: ValueId) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(n.ty(x).shape.as_slice()).map_err(|_| n.fail("its operands must have 3 or 4 dimensions"))
}

fn join(n: &mut OnnxNode<'_, '_>, past: ValueId, new: ValueId) -> Result<ValueId> {
    if n.ty(past).is_empty() { Ok(new) } else { n.emit(Concat { axis: 2 }, &[past, new]) }
}

/// Each head of keys or values for several heads of queries.
fn repeat(n: &mut OnnxNode<'_, '_>, x: ValueId, times: usize) -> Result<ValueId> {
    if times == 1 {
        return Ok(x);
    }
    let [b, h, t, d] = four(n, x)?;
    let one = n.reshape(x, &[b, h, 1, t, d])?;
    let all = n.expand(one, &[b, h, times, t, d])?;
    n.reshape(all, &[b, h * times, t, d])
}

/// A mask that is shorter than the keys, which forbids the rest.
fn widen(n: &mut OnnxNode<'_, '_>, mask: ValueId, keys: usize) -> Result<ValueId> {
    let mut shape = n.ty(mask).shape.clone();
    match shape.last_mut() {
        Some(last) if *last < keys && *last != 1 => *last = keys,
        _ => return Ok(mask),
    }
    let value = if n.ty(mask).dtype == DType::Bool { 0.0 } else { f64::NEG_INFINITY };
    let rank = shape.len();
    n.emit(Embed { shape, starts: vec![0; rank], steps: vec![1; rank], value }, &[mask])
}

/// 0 where it is allowed, else minus infinity.
fn allow(n: &mut OnnxNode<'_, '_>, like: ValueId, allowed: ValueId) -> Result<ValueId> {
    let (zero, infinity) = (n.scalar_like(like, 0.0)?, n.scalar_like(like, f64::NEG_INFINITY)?);
    n.emit(Select {}, &[allowed, zero, infinity])
}

fn add(n: &mut OnnxNode<'_, '_>, bias: &mut Option<ValueId>, part: ValueId) -> Result<()> {
    *bias = Some(match *bias {
        Some(bias) => n.binary("add", bias, part)?,
        None => part,
    });
    Ok(())
}

/// Queries that may attend to nothing, `None` if it is known that there are none.
fn barred(n: &mut OnnxNode<'_, '_>, bias: ValueId) -> Result<Option<ValueId>> {
    let last = n.ty(bias).rank().checked_sub(1).ok_or_else(|| n.fail("its mask has no dimensions"))?;
    let best = n.emit(Reduce { op: "max".into(), axes: vec![last], keepdims: true }, &[bias])?;
    let infinity = n.scalar_like(bias, f64::NEG_INFINITY)?;
    let barred = n.binary("equal", best, infinity)?;
    let none = n.graph().constant::<u8>(barred).is_some_and(|b| b.iter().all(|b| *b == 0));
    Ok((!none).then_some(barred))
}

/// `x` with zeros for the queries that are barred.
fn clear(n: &mut OnnxNode<'_, '_>, x: ValueId, barred: ValueId) -> Result<ValueId> {
    let zero = n.scalar_like(x, 0.0)?;
    n.emit(Select {}, &[barred, zero, x])
}

impl Reach {
    /// Where `key op query + offset + by`.
    fn compare(&self, n: &mut OnnxNode<'_, '_>, op: &str, by: i64) -> Result<ValueId> {
        let [queries, keys] = self.size;
        if queries.checked_mul(keys).is_none_or(|len| len > TABLE) {
            return Err(n.fail(format!("a mask of {queries} queries and {keys} keys is too large")));
        }
        let last: Vec<i64> = (0..queries as i64).map(|i| i.saturating_add(by)).collect();
        let last = n.add_const(DType::I64, &[queries, 1], &last);
        let last = n.binary("add", last, self.offset)?;
        let key = n.add_const(DType::I64, &[keys], &(0..keys as i64).collect::<Vec<_>>());
        n.binary(op, key, last)
    }
}
