//! Patterns of operators that passes look for, and what is almost one of them.

use super::steps::{NORM, axis, narrower, pair};
use super::{Builder, LARGEST, Value};
use crate::common::{Attr, Value as A};
use sara_runtime::oracle::OracleType;

/// The primitives of layer normalisation, or of something that is almost it.
pub(super) fn layer_norm_pattern(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let axis = if q % 5 == 4 { 0 } else { x.rank().checked_sub(1)? };
    let mut shape = x.shape.clone();
    *shape.get_mut(axis)? = 1;
    let mean = |b: &mut Builder, v: &Value| {
        let attrs: [Attr; 1] = [("axes", A::Ints(vec![axis as i64]))];
        b.step("ReduceMean", &[v], &attrs, (&shape, v.bound, v.error))
    };
    let middle = mean(b, x)?;
    let centred = b.step("Sub", &[x, &middle], &[], (&x.shape, 2.0 * x.bound, 2.0 * x.error))?;
    let squared = (&x.shape[..], centred.bound * centred.bound, 2.0 * centred.bound * centred.error);
    // One of the choices squares what is not centred.
    let base = if q % 7 == 6 { x } else { &centred };
    let two = b.number(2.0);
    let square = if p.is_multiple_of(2) {
        b.step("Pow", &[base, &two], &[], squared)?
    } else {
        b.step("Mul", &[base, base], &[], squared)?
    };
    let variance = mean(b, &square)?;
    let epsilon = b.number(0.1);
    let sum = b.step("Add", &[&variance, &epsilon], &[], (&shape, variance.bound + 0.1, variance.error))?;
    let root = b.step("Sqrt", &[&sum], &[], (&shape, sum.bound.sqrt() + 1.0, 2.0 * sum.error))?;
    let error = 4.0 * centred.error + 10.0 * centred.bound * root.error;
    let normal = match p / 2 % 2 {
        0 => b.step("Div", &[&centred, &root], &[], (&x.shape, 3.2 * centred.bound, error))?,
        _ => {
            let inverse = b.step("Reciprocal", &[&root], &[], (&shape, 3.2, 10.0 * root.error))?;
            b.step("Mul", &[&inverse, &centred], &[], (&x.shape, 3.2 * centred.bound, error))?
        }
    };
    let (scale, bias) = (b.leaf(&narrower(&x.shape, 2), p), b.leaf(&narrower(&x.shape, q), p / 4));
    let scaled = pair(b, "Mul", &normal, &scale, &x.shape)?;
    pair(b, "Add", &scaled, &bias, &x.shape)
}

pub(super) fn rms_norm_pattern(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let axis = x.rank().checked_sub(1)?;
    let mut shape = x.shape.clone();
    shape[axis] = 1;
    let square = pair(b, "Mul", x, x, &x.shape)?;
    let attrs: [Attr; 1] = [("axes", A::Ints(vec![-1]))];
    let mean = b.step("ReduceMean", &[&square], &attrs, (&shape, square.bound, square.error))?;
    let epsilon = b.number(0.1);
    let sum = b.step("Add", &[&mean, &epsilon], &[], (&shape, mean.bound + 0.1, mean.error))?;
    let root = b.step("Sqrt", &[&sum], &[], (&shape, sum.bound.sqrt() + 1.0, 2.0 * sum.error))?;
    let error = 4.0 * x.error + 10.0 * x.bound * root.error;
    let normal = b.step("Div", &[x, &root], &[], (&x.shape, 3.2 * x.bound, error))?;
    let scale = b.leaf(&narrower(&x.shape, q), p);
    pair(b, "Mul", &scale, &normal, &x.shape)
}

/// `x * sigmoid(a * y)`, where `y` may be `x`.
pub(super) fn gate(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let mut argument = x.clone();
    if p.is_multiple_of(3) {
        let factor = b.number([1.702, -1.0, 0.5][q as usize % 3]);
        argument = pair(b, "Mul", x, &factor, &x.shape)?;
    }
    if p % 4 == 3 {
        let same: Vec<Value> = b.values.iter().filter(|v| v.shape == x.shape).cloned().collect();
        argument = same[q as usize % same.len()].clone();
    }
    let open = if p % 5 == 4 { sigmoid(b, &argument, p)? } else { plain_sigmoid(b, &argument)? };
    if q.is_multiple_of(2) { pair(b, "Mul", &open, x, &x.shape) } else { pair(b, "Mul", x, &open, &x.shape) }
}

fn plain_sigmoid(b: &mut Builder, x: &Value) -> Option<Value> {
    b.step("Sigmoid", &[x], &[], (&x.shape, 1.0, 0.25 * x.error))
}

/// `1 / (1 + exp(-x))`, or something that is almost it.
fn sigmoid(b: &mut Builder, x: &Value, p: u16) -> Option<Value> {
    let opposite = b.step("Neg", &[x], &[], (&x.shape, x.bound, x.error))?;
    let most = x.bound.exp();
    // A sum that is scaled down has a reciprocal above one.
    if most + 1.5 > LARGEST {
        return plain_sigmoid(b, x);
    }
    let power = b.step("Exp", &[&opposite], &[], (&x.shape, most, most * x.error + 1e-7 * most))?;
    let one = b.number(if p % 7 == 6 { 1.5 } else { 1.0 });
    let sum = b.step("Add", &[&power, &one], &[], (&x.shape, most + 1.5, power.error))?;
    b.step("Reciprocal", &[&sum], &[], (&x.shape, 1.0, power.error))
}

/// `exp(x) / sum(exp(x))`, or something that is almost it.
pub(super) fn softmax_pattern(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (axis, named) = axis(x, p)?;
    let mut shape = x.shape.clone();
    shape[axis] = 1;
    let reduce = |b: &mut Builder, op: &str, v: &Value, named: i64, (bound, error): (f64, f64)| match op {
        "ReduceSum" => {
            let axes = b.ints(&[named]);
            let name = b.node(op, &[&v.name, &axes], &[], 1).remove(0);
            b.give(&name, &shape, bound, error)
        }
        _ => b.step(op, &[v], &[("axes", A::Ints(vec![named]))], (&shape, bound, error)),
    };
    let mut argument = x.clone();
    if !q.is_multiple_of(3) {
        let most = reduce(b, "ReduceMax", x, named, (x.bound, x.error))?;
        argument = b.step("Sub", &[x, &most], &[], (&x.shape, 2.0 * x.bound, 2.0 * x.error))?;
    }
    let most = argument.bound.exp();
    let powers = b.step("Exp", &[&argument], &[], (&x.shape, most, most * argument.error + 1e-7 * most))?;
    let count = x.shape[axis] as f64;
    // A sum that is scaled down gives ratios above one.
    if count * powers.bound > LARGEST {
        return None;
    }
    // One of the choices adds up what is not divided.
    let added = if q % 5 == 4 { &argument } else { &powers };
    let op = if q % 5 == 4 { "ReduceMax" } else { "ReduceSum" };
    let sum = reduce(b, op, added, named, (count * added.bound, count * added.error))?;
    if q % 5 == 4 {
        let shift = b.number(3.0 + 2.0 * argument.bound);
        let positive = pair(b, "Add", &sum, &shift, &shape)?;
        return b.step("Div", &[&powers, &positive], &[], (&x.shape, most, powers.error + most * positive.error));
    }
    // Every sum is at least the least power.
    let error = (powers.error + sum.error) * most * most;
    b.step("Div", &[&powers, &sum], &[], (&x.shape, 1.0, error))
}

pub(super) fn gelu(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (one, half) = (b.number(1.0), b.number([0.5, 0.5, 0.25][q as usize % 3]));
    let bent = if p.is_multiple_of(2) {
        let root = b.number(if p % 16 == 2 { 1.3 } else { std::f64::consts::SQRT_2 });
        let argument = b.step("Div", &[x, &root], &[], (&x.shape, x.bound, x.error))?;
        b.step("Erf", &[&argument], &[], (&x.shape, 1.0, 1.13 * argument.error))?
    } else {
        let (k, c) = (b.number(0.044_715), b.number(0.797_884_56));
        let square = pair(b, "Mul", x, x, &x.shape)?;
        let cube = pair(b, "Mul", &square, x, &x.shape)?;
        let small = pair(b, "Mul", &cube, &k, &x.shape)?;
        let sum = pair(b, "Add", x, &small, &x.shape)?;
        let argument = pair(b, "Mul", &sum, &c, &x.shape)?;
        b.step("Tanh", &[&argument], &[], (&x.shape, 1.0, argument.error))?
    };
    let sum = pair(b, "Add", &bent, &one, &x.shape)?;
    let product = pair(b, "Mul", x, &sum, &x.shape)?;
    pair(b, "Mul", &product, &half, &x.shape)
}

pub(super) fn group_norm_pattern(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let [n, channels, rest @ ..] = &x.shape[..] else { return None };
    let groups = [1, 2, 3][p as usize % 3];
    if rest.is_empty() || channels % groups != 0 {
        return None;
    }
    let size = channels / groups * rest.iter().product::<usize>();
    let to = b.ints(&[*n as i64, groups as i64, -1]);
    let name = b.node("Reshape", &[&x.name, &to], &[], 1).remove(0);
    let grouped = b.give(&name, &[*n, groups, size], x.bound, x.error)?;
    let ones = b.constant(OracleType::F32, &[groups], &vec![1.0; groups]);
    let zeros = b.constant(OracleType::F32, &[groups], &vec![if q % 5 == 4 { 0.5 } else { 0.0 }; groups]);
    let names = b.node("InstanceNormalization", &[&grouped.name, &ones, &zeros], &[("epsilon", A::Float(0.1))], 1);
    let normal = b.give(&names[0], &grouped.shape, 1.0 + (size as f64).sqrt(), NORM * x.error + 1e-6 * x.bound)?;
    let back = b.ints(&x.shape.iter().map(|d| *d as i64).collect::<Vec<_>>());
    let name = b.node("Reshape", &[&normal.name, &back], &[], 1).remove(0);
    let normal = b.give(&name, &x.shape, normal.bound, normal.error)?;
    let affine = [&[*channels], &vec![1; rest.len()][..]].concat();
    let (scale, bias) = (b.leaf(&affine, p / 4), b.leaf(&affine, q));
    let scaled = pair(b, "Mul", &normal, &scale, &x.shape)?;
    pair(b, "Add", &scaled, &bias, &x.shape)
}

pub(super) fn attention(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let [batch, tokens, width] = x.shape[..] else { return None };
    let heads = if width % 2 == 0 { 2 } else { 1 };
    let dim = width / heads;
    let mut parts = Vec::new();
    for _ in 0..3 {
        let w = b.leaf(&[width, width], p);
        let bound = width as f64 * x.bound;
        let y = b.step("MatMul", &[x, &w], &[], (&x.shape, bound, width as f64 * x.error))?;
        let split = b.ints(&[0, 0, heads as i64, dim as i64]);
        let name = b.node("Reshape", &[&y.name, &split], &[], 1).remove(0);
        let y = b.give(&name, &[batch, tokens, heads, dim], y.bound, y.error)?;
        let perm: Attr = ("perm", A::Ints(vec![0, 2, 1, 3]));
        parts.push(b.step("Transpose", &[&y], &[perm], (&[batch, heads, tokens, dim], y.bound, y.error))?);
    }
    let [mut query, key, value] = <[Value; 3]>::try_from(parts).ok()?;
    let shape = [batch, heads, tokens, tokens];
    let factor = b.number(0.6);
    if p.is_multiple_of(2) {
        query = pair(b, "Mul", &query, &factor, &query.shape)?;
    }
    let perm: Attr = ("perm", A::Ints(vec![0, 1, 3, 2]));
    let turned = b.step("Transpose", &[&key], &[perm], (&[batch, heads, dim, tokens], key.bound, key.error))?;
    let d = dim as f64;
    let error = d * (query.error * key.bound + key.error * query.bound);
    let mut scores = b.step("MatMul", &[&query, &turned], &[], (&shape, d * query.bound * key.bound, error))?;
    if p % 2 == 1 {
        scores = pair(b, "Mul", &scores, &factor, &shape)?;
    }
    let masks: [&[usize]; 4] =
        [&[1, 1, 1, tokens], &[tokens, tokens], &[batch, 1, tokens, tokens], &[batch, heads, tokens, 1]];
    if !q.is_multiple_of(3) {
        let mask = b.leaf(masks[q as usize / 4 % 4], if q % 3 == 1 { 3 } else { 0 });
        scores = pair(b, "Add", &scores, &mask, &shape)?;
    }
    let weights = b.step(
        "Softmax",
        &[&scores],
        &[("axis", A::Int(-1))],
        (&shape, 1.0, 2.0 * scores.error + 1e-6 * scores.bound),
    )?;
    let error = value.error + tokens as f64 * weights.error * value.bound;
    let mixed = b.step("MatMul", &[&weights, &value], &[], (&[batch, heads, tokens, dim], value.bound, error))?;
    let perm: Attr = ("perm", A::Ints(vec![0, 2, 1, 3]));
    let mixed = b.step("Transpose", &[&mixed], &[perm], (&[batch, tokens, heads, dim], mixed.bound, mixed.error))?;
    let join = b.ints(&[0, 0, -1]);
    let name = b.node("Reshape", &[&mixed.name, &join], &[], 1).remove(0);
    b.give(&name, &x.shape, mixed.bound, mixed.error)
}
