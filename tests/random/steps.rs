//! The steps of random models: the table of all, and the operators.

use super::patterns::{
    attention, gate, gelu, group_norm_pattern, layer_norm_pattern, rms_norm_pattern, softmax_pattern,
};
use super::{Builder, Value};
use crate::common::{Attr, Value as A};
use sara_runtime::oracle::OracleType;

/// Appends nodes to a model, if the value fits them.
pub(super) type Kind = fn(&mut Builder, &Value, u16, u16) -> Option<Value>;

/// All steps.
pub(super) const STEPS: &[Kind] = &[
    unary,
    unary,
    positive,
    with_leaf,
    with_leaf,
    with_other,
    matmul,
    matmul,
    self_product,
    gemm,
    conv,
    conv,
    conv_transpose,
    softmax,
    reduce,
    transpose,
    transpose,
    reshape,
    reshape,
    slice,
    pad,
    concat,
    split,
    gather,
    expand,
    resize,
    pool,
    choose,
    clip,
    layer_norm,
    instance_norm,
    batch_norm,
    layer_norm_pattern,
    rms_norm_pattern,
    gate,
    gelu,
    group_norm_pattern,
    softmax_pattern,
    attention,
    attention,
    cum_sum,
    trilu,
    double,
    scatter,
    depth_to_space,
];

fn unary(b: &mut Builder, x: &Value, p: u16, _: u16) -> Option<Value> {
    // Function, largest result if it is bounded, largest slope.
    let table: &[(&str, f64, f64)] = &[
        ("Tanh", 1.0, 1.0),
        ("Sigmoid", 1.0, 0.25),
        ("Relu", f64::MAX, 1.0),
        ("Erf", 1.0, 1.13),
        ("Neg", f64::MAX, 1.0),
        ("Abs", f64::MAX, 1.0),
        ("Sin", 1.0, 1.0),
        ("Cos", 1.0, 1.0),
        ("Softsign", 1.0, 1.0),
        ("LeakyRelu", f64::MAX, 1.0),
        ("Elu", f64::MAX, 1.0),
        ("HardSwish", f64::MAX, 1.5),
        ("Identity", f64::MAX, 1.0),
        ("HardSigmoid", 1.0, 0.2),
        ("Atan", 1.6, 1.0),
        ("Celu", f64::MAX, 1.0),
        ("Selu", f64::MAX, 1.8),
    ];
    let (op, bound, slope) = table[p as usize % table.len()];
    let bound = if bound == f64::MAX { 1.1 * slope.max(1.0) * x.bound } else { bound };
    b.step(op, &[x], &[], (&x.shape, bound, slope * x.error))
}

/// Functions of positive numbers only.
fn positive(b: &mut Builder, x: &Value, p: u16, _: u16) -> Option<Value> {
    let size = b.step("Abs", &[x], &[], (&x.shape, x.bound, x.error))?;
    let half = b.number(0.5);
    let shifted = b.step("Add", &[&size, &half], &[], (&x.shape, x.bound + 0.5, x.error))?;
    let (op, bound, slope) = [("Log", 5.0, 2.0), ("Sqrt", 9.0, 0.75), ("Reciprocal", 2.0, 4.0)][p as usize % 3];
    b.step(op, &[&shifted], &[], (&x.shape, bound, slope * shifted.error))
}

/// A shape that broadcasts to `shape`.
pub(super) fn narrower(shape: &[usize], q: u16) -> Vec<usize> {
    match q % 6 {
        0 => shape.to_vec(),
        1 => vec![],
        2 => shape.last().copied().into_iter().collect(),
        3 => shape.iter().enumerate().map(|(i, d)| if i == 1 { *d } else { 1 }).collect(),
        4 => shape[shape.len() / 2..].iter().enumerate().map(|(i, d)| if i == 0 { *d } else { 1 }).collect(),
        _ => shape.iter().enumerate().map(|(i, d)| if i % 2 == 0 { *d } else { 1 }).collect(),
    }
}

pub(super) fn pair(b: &mut Builder, op: &str, x: &Value, y: &Value, shape: &[usize]) -> Option<Value> {
    let (bound, error) = match op {
        "Mul" => (x.bound * y.bound, x.error * y.bound + y.error * x.bound),
        "Max" | "Min" => (x.bound.max(y.bound), x.error + y.error),
        _ => (x.bound + y.bound, x.error + y.error),
    };
    b.step(op, &[x, y], &[], (shape, bound, error))
}

fn with_leaf(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let shape = narrower(&x.shape, q);
    let y = b.leaf(&shape, p / 8);
    match p % 6 {
        5 => {
            let (size, half) = (b.step("Abs", &[&y], &[], (&shape, 1.0, 0.0))?, b.number(0.5));
            let divisor = b.step("Add", &[&size, &half], &[], (&shape, 1.5, 0.0))?;
            b.step("Div", &[x, &divisor], &[], (&x.shape, 2.0 * x.bound, 2.0 * x.error + 4.0 * divisor.error * x.bound))
        }
        4 => pair(b, "Sub", &y, x, &x.shape),
        k => pair(b, ["Add", "Mul", "Sub", "Max"][k as usize], x, &y, &x.shape),
    }
}

fn with_other(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let same: Vec<Value> = b.values.iter().filter(|v| v.shape == x.shape).cloned().collect();
    let y = same[q as usize % same.len()].clone();
    pair(b, ["Add", "Mul", "Sub", "Max", "Min"][p as usize % 5], x, &y, &x.shape)
}

fn matmul(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    if x.rank() < 2 {
        return None;
    }
    let (k, n) = (x.shape[x.rank() - 1], 1 + p as usize % 7);
    let batched = q % 3 == 1 && x.rank() > 2;
    let shape = if batched { [&x.shape[..x.rank() - 2], &[k, n]].concat() } else { vec![k, n] };
    let w = b.leaf(&shape, q / 4);
    let mut result = x.shape.clone();
    result[x.rank() - 1] = n;
    b.step("MatMul", &[x, &w], &[], (&result, k as f64 * x.bound, k as f64 * x.error))
}

/// `x x^T`, as in scores.
fn self_product(b: &mut Builder, x: &Value, p: u16, _: u16) -> Option<Value> {
    if x.rank() < 2 {
        return None;
    }
    let rank = x.rank();
    let (t, k) = (x.shape[rank - 2], x.shape[rank - 1]);
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    perm.swap(rank - 2, rank - 1);
    let mut turned = x.shape.clone();
    turned.swap(rank - 2, rank - 1);
    let y = b.step("Transpose", &[x], &[("perm", A::Ints(perm))], (&turned, x.bound, x.error))?;
    let (left, right, n, m) = if p.is_multiple_of(2) { (x, &y, t, k) } else { (&y, x, k, t) };
    let mut shape = x.shape.clone();
    (shape[rank - 2], shape[rank - 1]) = (n, n);
    let m = m as f64;
    b.step("MatMul", &[left, right], &[], (&shape, m * x.bound * x.bound, 2.0 * m * x.bound * x.error))
}

fn gemm(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let [rows, cols] = x.shape[..] else { return None };
    let (ta, tb) = (p % 2 == 1, p / 2 % 2 == 1);
    let (m, k) = if ta { (cols, rows) } else { (rows, cols) };
    let n = 1 + q as usize % 5;
    let w = b.leaf(&if tb { [n, k] } else { [k, n] }, p / 4);
    let c = b.leaf(&narrower(&[m, n], q / 8), p / 16);
    let attrs: [Attr; 4] = [
        ("transA", A::Int(i64::from(ta))),
        ("transB", A::Int(i64::from(tb))),
        ("alpha", A::Float(0.5)),
        ("beta", A::Float(2.0)),
    ];
    b.step("Gemm", &[x, &w, &c], &attrs, (&[m, n], k as f64 * x.bound + 2.0, k as f64 * x.error))
}

fn conv(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let spatial = x.rank().checked_sub(2).filter(|s| (1..=3).contains(s))?;
    let channels = x.shape[1];
    let group = if p % 3 == 1 && channels.is_multiple_of(2) {
        2
    } else if p % 7 == 2 {
        channels
    } else {
        1
    };
    let (kernel, stride) = (1 + (p / 8) as usize % 3, 1 + (q % 2) as usize);
    let (dilation, pad) = (1 + (q / 2 % 2) as usize, (q / 4) as usize % 3);
    let outputs = group * (1 + q as usize / 16 % 3);
    let mut shape = vec![x.shape[0], outputs];
    for d in &x.shape[2..] {
        shape.push((d + 2 * pad).checked_sub((kernel - 1) * dilation + 1)? / stride + 1);
    }
    let w = b.leaf(&[&[outputs, channels / group], &vec![kernel; spatial][..]].concat(), p / 16);
    let bias = b.leaf(&[outputs], q);
    let list = |v: usize, n: usize| A::Ints(vec![v as i64; n]);
    let attrs: [Attr; 4] = [
        ("strides", list(stride, spatial)),
        ("dilations", list(dilation, spatial)),
        ("pads", list(pad, 2 * spatial)),
        ("group", A::Int(group as i64)),
    ];
    let terms = (channels / group * kernel.pow(spatial as u32)) as f64;
    let inputs: &[&Value] = if p.is_multiple_of(2) { &[x, &w, &bias] } else { &[x, &w] };
    b.step("Conv", inputs, &attrs, (&shape, terms * x.bound + 1.0, terms * x.error))
}

fn conv_transpose(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let spatial = x.rank().checked_sub(2).filter(|s| (1..=2).contains(s))?;
    let (kernel, stride, outputs) = (1 + p as usize % 3, 1 + q as usize % 2, 1 + (q / 2) as usize % 3);
    let shape: Vec<usize> = x.shape[2..].iter().map(|d| (d - 1) * stride + kernel).collect();
    let shape = [&[x.shape[0], outputs], &shape[..]].concat();
    let w = b.leaf(&[&[x.shape[1], outputs], &vec![kernel; spatial][..]].concat(), p / 4);
    let attrs: [Attr; 1] = [("strides", A::Ints(vec![stride as i64; spatial]))];
    let terms = (x.shape[1] * kernel.pow(spatial as u32)) as f64;
    b.step("ConvTranspose", &[x, &w], &attrs, (&shape, terms * x.bound, terms * x.error))
}

pub(super) fn axis(x: &Value, p: u16) -> Option<(usize, i64)> {
    let axis = p as usize % x.rank().max(1);
    (x.rank() > 0).then_some((axis, if p.is_multiple_of(3) { axis as i64 - x.rank() as i64 } else { axis as i64 }))
}

fn softmax(b: &mut Builder, x: &Value, p: u16, _: u16) -> Option<Value> {
    let (_, axis) = axis(x, p)?;
    b.step("Softmax", &[x], &[("axis", A::Int(axis))], (&x.shape, 1.0, 2.0 * x.error + 1e-6 * x.bound))
}

fn reduce(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (first, _) = axis(x, p)?;
    let second = (q as usize / 4) % x.rank();
    let mut axes = if q.is_multiple_of(2) { vec![first] } else { vec![first, second] };
    axes.sort_unstable();
    axes.dedup();
    let keep = (q / 2).is_multiple_of(2);
    let count: usize = axes.iter().map(|a| x.shape[*a]).product();
    let shape: Vec<usize> = (0..x.rank())
        .filter(|i| keep || !axes.contains(i))
        .map(|i| if axes.contains(&i) { 1 } else { x.shape[i] })
        .collect();
    let ints: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
    let flag: Attr = ("keepdims", A::Int(i64::from(keep)));
    if (p / 8).is_multiple_of(4) {
        let list = b.ints(&ints);
        let name = b.node("ReduceSum", &[&x.name, &list], &[flag], 1).remove(0);
        return b.give(&name, &shape, count as f64 * x.bound, count as f64 * x.error);
    }
    let op = ["ReduceMean", "ReduceMax", "ReduceMin"][p as usize / 8 % 4 - 1];
    b.step(op, &[x], &[("axes", A::Ints(ints)), flag], (&shape, x.bound, x.error))
}

fn transpose(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let mut perm: Vec<usize> = (0..x.rank()).collect();
    let (i, j) = (axis(x, p)?.0, axis(x, q)?.0);
    if p.is_multiple_of(2) {
        perm.swap(i, j)
    } else {
        perm.rotate_left(i)
    }
    let shape: Vec<usize> = perm.iter().map(|i| x.shape[*i]).collect();
    let perm = A::Ints(perm.iter().map(|i| *i as i64).collect());
    b.step("Transpose", &[x], &[("perm", perm)], (&shape, x.bound, x.error))
}

fn reshape(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, _) = axis(x, p)?;
    let mut shape = x.shape.clone();
    match q % 4 {
        0 if i + 1 < shape.len() => {
            shape[i] *= shape[i + 1];
            shape.remove(i + 1);
        }
        1 if shape[i].is_multiple_of(2) => {
            shape[i] /= 2;
            shape.insert(i, 2);
        }
        2 => shape.insert(i, 1),
        3 if shape[i] == 1 => {
            shape.remove(i);
        }
        _ => return None,
    }
    let mut wanted: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
    if let Some(first) = wanted.first_mut().filter(|_| p.is_multiple_of(2)) {
        *first = -1;
    }
    let wanted = b.ints(&wanted);
    let name = b.node("Reshape", &[&x.name, &wanted], &[], 1).remove(0);
    b.give(&name, &shape, x.bound, x.error)
}

fn slice(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, named) = axis(x, p)?;
    let dim = x.shape[i] as i64;
    let (start, end, step, count) = match q % 4 {
        0 => (0, dim - 1, 1, dim - 1),
        1 => (1, i64::MAX, 1, dim - 1),
        2 => (-1, i64::MIN + 1, -1, dim),
        _ => (0, dim, 2, (dim + 1) / 2),
    };
    let mut shape = x.shape.clone();
    shape[i] = usize::try_from(count).ok().filter(|c| *c > 0)?;
    let lists = [b.ints(&[start]), b.ints(&[end]), b.ints(&[named]), b.ints(&[step])];
    let mut inputs = vec![x.name.as_str()];
    inputs.extend(lists.iter().map(String::as_str));
    let name = b.node("Slice", &inputs, &[], 1).remove(0);
    b.give(&name, &shape, x.bound, x.error)
}

fn pad(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, _) = axis(x, p)?;
    let (before, after) = (i64::from(q % 3), i64::from(q / 4 % 2));
    let mode = ["constant", "reflect", "edge"][p as usize / 8 % 3];
    if mode == "reflect" && x.shape[i] < 4 {
        return None;
    }
    let mut pads = vec![0; 2 * x.rank()];
    (pads[i], pads[x.rank() + i]) = (before, after);
    let mut shape = x.shape.clone();
    shape[i] += (before + after) as usize;
    let pads = b.ints(&pads);
    let name = b.node("Pad", &[&x.name, &pads], &[("mode", A::Text(mode))], 1).remove(0);
    b.give(&name, &shape, x.bound, x.error)
}

fn concat(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, named) = axis(x, p)?;
    let fits = |v: &&Value| v.rank() == x.rank() && (0..x.rank()).all(|d| d == i || v.shape[d] == x.shape[d]);
    let others: Vec<Value> = b.values.iter().filter(fits).cloned().collect();
    let y = others[q as usize % others.len()].clone();
    let mut shape = x.shape.clone();
    shape[i] += y.shape[i];
    b.step("Concat", &[x, &y], &[("axis", A::Int(named))], (&shape, x.bound.max(y.bound), x.error.max(y.error)))
}

fn split(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, named) = axis(x, p)?;
    let first = 1 + q as usize % x.shape[i].max(2).checked_sub(1)?;
    let rest = x.shape[i].checked_sub(first).filter(|r| *r > 0)?;
    let sizes = b.ints(&[first as i64, rest as i64]);
    let names = b.node("Split", &[&x.name, &sizes], &[("axis", A::Int(named))], 2);
    let mut shape = x.shape.clone();
    shape[i] = first;
    b.give(&names[0], &shape, x.bound, x.error)?;
    shape[i] = rest;
    b.give(&names[1], &shape, x.bound, x.error)
}

fn gather(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, named) = axis(x, p)?;
    let dim = x.shape[i] as i64;
    let index: Vec<i64> =
        (0..1 + i64::from(q % 4)).map(|k| (k * 3 + i64::from(q)) % dim - if k % 2 == 1 { dim } else { 0 }).collect();
    let mut shape = x.shape.clone();
    shape[i] = index.len();
    let index = b.ints(&index);
    let name = b.node("Gather", &[&x.name, &index], &[("axis", A::Int(named))], 1).remove(0);
    b.give(&name, &shape, x.bound, x.error)
}

fn expand(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, _) = axis(x, p)?;
    let mut times = vec![1; x.rank()];
    times[i] = 2;
    if q.is_multiple_of(2) {
        let mut shape = x.shape.clone();
        shape[i] *= 2;
        let times = b.ints(&times);
        let name = b.node("Tile", &[&x.name, &times], &[], 1).remove(0);
        return b.give(&name, &shape, x.bound, x.error);
    }
    let shape = [&[2], &x.shape[..]].concat();
    let wanted = b.ints(&shape.iter().map(|d| *d as i64).collect::<Vec<_>>());
    let name = b.node("Expand", &[&x.name, &wanted], &[], 1).remove(0);
    b.give(&name, &shape, x.bound, x.error)
}

fn resize(b: &mut Builder, x: &Value, p: u16, _: u16) -> Option<Value> {
    let [n, c, h, w] = x.shape[..] else { return None };
    let scales = b.constant(OracleType::F32, &[4], &[1.0, 1.0, 2.0, 2.0]);
    let attrs: [Attr; 3] = match p % 2 {
        0 => [
            ("mode", A::Text("nearest")),
            ("coordinate_transformation_mode", A::Text("asymmetric")),
            ("nearest_mode", A::Text("floor")),
        ],
        _ => [
            ("mode", A::Text("linear")),
            ("coordinate_transformation_mode", A::Text("half_pixel")),
            ("nearest_mode", A::Text("floor")),
        ],
    };
    let name = b.node("Resize", &[&x.name, "", &scales], &attrs, 1).remove(0);
    b.give(&name, &[n, c, 2 * h, 2 * w], x.bound, x.error)
}

fn pool(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let [n, c, h, w] = x.shape[..] else { return None };
    if p % 4 == 3 {
        return b.step("GlobalAveragePool", &[x], &[], (&[n, c, 1, 1], x.bound, x.error));
    }
    let (stride, pad) = (1 + q as usize % 2, q as usize / 2 % 2);
    let size = |d: usize| Some((d + 2 * pad).checked_sub(2)? / stride + 1);
    let attrs: [Attr; 3] = [
        ("kernel_shape", A::Ints(vec![2, 2])),
        ("strides", A::Ints(vec![stride as i64; 2])),
        ("pads", A::Ints(vec![pad as i64; 4])),
    ];
    let op = if p.is_multiple_of(2) { "AveragePool" } else { "MaxPool" };
    b.step(op, &[x], &attrs, (&[n, c, size(h)?, size(w)?], x.bound, x.error))
}

/// A choice by a comparison of values that are exact.
fn choose(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let shape = narrower(&x.shape, q);
    let (left, right) = (b.leaf(&shape, p), b.leaf(&[], 0));
    let op = ["Less", "Greater", "LessOrEqual"][p as usize / 4 % 3];
    let condition = b.node(op, &[&left.name, &right.name], &[], 1).remove(0);
    let y = b.leaf(&narrower(&x.shape, q / 8), p / 8);
    let name = b.node("Where", &[&condition, &x.name, &y.name], &[], 1).remove(0);
    b.give(&name, &x.shape, x.bound.max(1.0), x.error)
}

fn clip(b: &mut Builder, x: &Value, p: u16, _: u16) -> Option<Value> {
    let (low, high) = (b.number(-0.7), b.number(f64::from(p % 4) * 0.3));
    b.step("Clip", &[x, &low, &high], &[], (&x.shape, 1.0, x.error))
}

/// Largest factor by which a normalisation with this epsilon can increase an error.
pub(super) const NORM: f64 = 8.0;

fn layer_norm(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, named) = axis(x, p)?;
    let row = x.shape[i..].to_vec();
    let (scale, bias) = (b.leaf(&row, p / 4), b.leaf(&row, q));
    let attrs: [Attr; 2] = [("axis", A::Int(named)), ("epsilon", A::Float(0.1))];
    let inputs: &[&Value] = if q.is_multiple_of(2) { &[x, &scale, &bias] } else { &[x, &scale] };
    b.step(
        "LayerNormalization",
        inputs,
        &attrs,
        (&x.shape, 1.0 + (row.iter().product::<usize>() as f64).sqrt(), NORM * x.error + 1e-6 * x.bound),
    )
}

fn instance_norm(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let [_, channels, rest @ ..] = &x.shape[..] else { return None };
    if rest.is_empty() {
        return None;
    }
    let (scale, bias) = (b.leaf(&[*channels], p), b.leaf(&[*channels], q));
    let bound = 1.0 + (rest.iter().product::<usize>() as f64).sqrt();
    let attrs: [Attr; 1] = [("epsilon", A::Float(0.1))];
    b.step("InstanceNormalization", &[x, &scale, &bias], &attrs, (&x.shape, bound, NORM * x.error + 1e-6 * x.bound))
}

fn batch_norm(b: &mut Builder, x: &Value, p: u16, _: u16) -> Option<Value> {
    let channels = *x.shape.get(1)?;
    let (scale, bias) = (b.leaf(&[channels], p), b.leaf(&[channels], p / 4));
    let mean = b.leaf(&[channels], 0);
    let (deviation, half) = (b.leaf(&[channels], 0), b.number(0.5));
    let size = b.step("Abs", &[&deviation], &[], (&[channels], 1.0, 0.0))?;
    let variance = b.step("Add", &[&size, &half], &[], (&[channels], 1.5, 0.0))?;
    let inputs = [x, &scale, &bias, &mean, &variance];
    b.step(
        "BatchNormalization",
        &inputs,
        &[("epsilon", A::Float(0.1))],
        (&x.shape, 1.4 * (x.bound + 1.0) + 1.0, 1.5 * x.error + 1e-6 * x.bound),
    )
}

fn cum_sum(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let (i, named) = axis(x, p)?;
    let at = b.constant(OracleType::I64, &[], &[named as f64]);
    let attrs: [Attr; 2] = [("exclusive", A::Int(i64::from(q % 2))), ("reverse", A::Int(i64::from(q / 2 % 2)))];
    let name = b.node("CumSum", &[&x.name, &at], &attrs, 1).remove(0);
    let dim = x.shape[i] as f64;
    b.give(&name, &x.shape, dim * x.bound, dim * x.error)
}

fn trilu(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    if x.rank() < 2 {
        return None;
    }
    let k = b.constant(OracleType::I64, &[], &[f64::from(q % 3) - 1.0]);
    let name = b.node("Trilu", &[&x.name, &k], &[("upper", A::Int(i64::from(p % 2)))], 1).remove(0);
    b.give(&name, &x.shape, x.bound, x.error)
}

/// To double precision, one function there, and back.
fn double(b: &mut Builder, x: &Value, _: u16, _: u16) -> Option<Value> {
    let wide = b.node("Cast", &[&x.name], &[("to", A::Int(11))], 1).remove(0);
    let bent = b.node("Tanh", &[&wide], &[], 1).remove(0);
    let name = b.node("Cast", &[&bent], &[("to", A::Int(1))], 1).remove(0);
    b.give(&name, &x.shape, 1.0, x.error)
}

fn scatter(b: &mut Builder, x: &Value, p: u16, q: u16) -> Option<Value> {
    let rows = *x.shape.first()?;
    let at = [p as usize % rows];
    let updates = b.leaf(&[&[1], &x.shape[1..]].concat(), q);
    let index = b.constant(OracleType::I64, &[1, 1], &[at[0] as f64]);
    let reduction = ["none", "add"][q as usize / 4 % 2];
    let name =
        b.node("ScatterND", &[&x.name, &index, &updates.name], &[("reduction", A::Text(reduction))], 1).remove(0);
    b.give(&name, &x.shape, x.bound + 1.0, x.error)
}

fn depth_to_space(b: &mut Builder, x: &Value, p: u16, _: u16) -> Option<Value> {
    let [n, c, h, w] = x.shape[..] else { return None };
    let (block, mode): (Attr, Attr) = (("blocksize", A::Int(2)), ("mode", A::Text(["DCR", "CRD"][p as usize / 2 % 2])));
    match p % 2 {
        0 if c % 4 == 0 => b.step("DepthToSpace", &[x], &[block, mode], (&[n, c / 4, 2 * h, 2 * w], x.bound, x.error)),
        1 if h % 2 == 0 && w % 2 == 0 => {
            b.step("SpaceToDepth", &[x], &[block], (&[n, 4 * c, h / 2, w / 2], x.bound, x.error))
        }
        _ => None,
    }
}
