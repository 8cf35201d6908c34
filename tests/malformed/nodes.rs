//! Nodes whose operands and attributes do not fit, and those that ask for far more than the file holds.

use crate::Case;
use crate::common::{Attr, Dim, Tensor, Value, declare, graph, model, node};
use crate::graphs::refused;
use Value::{Float, Int, Ints, Text};
use onnx_protobuf::TensorProto;
use sara_runtime::oracle::OracleType::*;

/// A node that reads `x` `f32[2,4,6,6]` and constants.
fn one(name: &str, op: &str, inputs: &[&str], attrs: &[Attr]) -> Case {
    let whole = |name: &str, values: &[f64]| Tensor::new(I64, &[values.len()], values).proto(name);
    let real = |name: &str, shape: &[usize]| Tensor::new(F32, shape, &vec![0.5; shape.iter().product()]).proto(name);
    let huge = (1u64 << 40) as f64;
    let constants: Vec<TensorProto> = vec![
        real("w", &[8, 4, 3, 3]),
        real("v", &[3]),
        real("m", &[5, 7]),
        real("s", &[]),
        whole("huge", &[huge]),
        whole("huge4", &[huge; 4]),
        whole("much4", &[1.0, 1.0, 100_000.0, 100_000.0]),
        whole("negative", &[-5.0]),
        whole("zero", &[0.0]),
        whole("one", &[1.0]),
        whole("nine", &[9.0]),
        whole("pair", &[1.0, 2.0]),
        Tensor::new(I64, &[], &[0.0]).proto("from"),
        Tensor::new(I64, &[], &[huge]).proto("to"),
        Tensor::new(I64, &[], &[1.0]).proto("by"),
        Tensor::new(F32, &[4], &[1.0, 1.0, 1e9, 1e9]).proto("scales"),
        Tensor::new(F32, &[4], &[1.0, 1.0, f64::NAN, 1.0]).proto("nan4"),
        Tensor::new(F32, &[4], &[1.0, 1.0, -1.0, 1.0]).proto("minus4"),
    ];
    let used = constants.into_iter().filter(|t| inputs.contains(&t.name.as_str())).collect();
    let x = declare("x", F32, &[2, 4, 6, 6].map(Dim::Fixed));
    let nodes = vec![node(op, inputs, &["y"], attrs)];
    refused(format!("node, {op}, {name}"), model(18, graph(nodes, vec![x], used, &["y"])))
}

pub(crate) fn cases() -> Vec<Case> {
    let pads = |v: &[i64]| ("pads", Ints(v.to_vec()));
    vec![
        one("channels", "Conv", &["x", "m"], &[]),
        one("strides of zero", "Conv", &["x", "w"], &[("strides", Ints(vec![0, 1]))]),
        one("negative strides", "Conv", &["x", "w"], &[("strides", Ints(vec![-1, 1]))]),
        one("strides for one dimension", "Conv", &["x", "w"], &[("strides", Ints(vec![1]))]),
        one("dilations of zero", "Conv", &["x", "w"], &[("dilations", Ints(vec![0, 0]))]),
        one("huge dilations", "Conv", &["x", "w"], &[("dilations", Ints(vec![i64::MAX, 1]))]),
        one("groups of zero", "Conv", &["x", "w"], &[("group", Int(0))]),
        one("groups that do not divide", "Conv", &["x", "w"], &[("group", Int(3))]),
        one("negative groups", "Conv", &["x", "w"], &[("group", Int(-1))]),
        one("huge padding", "Conv", &["x", "w"], &[pads(&[i64::MAX, 0, 0, 0])]),
        one("padding to terabytes", "Conv", &["x", "w"], &[pads(&[1 << 30, 1 << 30, 0, 0])]),
        one("negative padding beyond the input", "Conv", &["x", "w"], &[pads(&[-9, 0, 0, 0])]),
        one("padding for one dimension", "Conv", &["x", "w"], &[pads(&[1, 1])]),
        one("another kernel shape", "Conv", &["x", "w"], &[("kernel_shape", Ints(vec![5, 5]))]),
        one("an unknown way of padding", "Conv", &["x", "w"], &[("auto_pad", Text("SAME_MAYBE"))]),
        one("a bias of another length", "Conv", &["x", "w", "v"], &[]),
        one("strides as a number", "Conv", &["x", "w"], &[("strides", Int(2))]),
        one("strides as a text", "Conv", &["x", "w"], &[("strides", Text("2"))]),
        one("inner dimensions", "MatMul", &["x", "m"], &[]),
        one("a scalar", "MatMul", &["x", "s"], &[]),
        one("ranks", "Gemm", &["x", "m"], &[]),
        one("a huge shape", "Reshape", &["x", "huge"], &[]),
        one("another size", "Reshape", &["x", "nine"], &[]),
        one("a negative size", "Reshape", &["x", "negative"], &[]),
        one("a computed shape", "Reshape", &["x", "x"], &[]),
        one("a huge shape", "Expand", &["x", "huge4"], &[]),
        one("many repetitions", "Tile", &["x", "huge4"], &[]),
        one("repetitions for one dimension", "Tile", &["x", "one"], &[]),
        one("negative repetitions", "Tile", &["x", "negative"], &[]),
        one("a huge shape", "ConstantOfShape", &["huge4"], &[]),
        one("terabytes", "ConstantOfShape", &["huge"], &[]),
        one("a negative shape", "ConstantOfShape", &["negative"], &[]),
        one("a million million", "Range", &["from", "to", "by"], &[]),
        one("steps of zero", "Range", &["from", "to", "from"], &[]),
        one("a thousand million times as large", "Resize", &["x", "", "scales"], &[]),
        one("scales that are no numbers", "Resize", &["x", "", "nan4"], &[]),
        one("negative scales", "Resize", &["x", "", "minus4"], &[]),
        one("huge sizes", "Resize", &["x", "", "", "huge4"], &[]),
        one("an unknown mode", "Resize", &["x", "", "scales"], &[("mode", Text("sinc"))]),
        one("huge padding", "Pad", &["x", "huge4"], &[]),
        one("padding of one number", "Pad", &["x", "one"], &[]),
        one("an unknown mode", "Pad", &["x", "huge4"], &[("mode", Text("mirror"))]),
        one("an axis beyond", "Concat", &["x", "x"], &[("axis", Int(4))]),
        one("the least axis", "Concat", &["x", "x"], &[("axis", Int(i64::MIN))]),
        one("no axis", "Concat", &["x", "x"], &[]),
        one("shapes", "Concat", &["x", "m"], &[("axis", Int(0))]),
        one("a repeated axis", "Transpose", &["x"], &[("perm", Ints(vec![0, 0, 1, 2]))]),
        one("too few axes", "Transpose", &["x"], &[("perm", Ints(vec![0, 1]))]),
        one("a negative axis", "Transpose", &["x"], &[("perm", Ints(vec![0, 1, 2, -9]))]),
        one("an axis beyond", "Softmax", &["x"], &[("axis", Int(7))]),
        one("an axis beyond", "ReduceMean", &["x", "nine"], &[]),
        one("a position beyond", "Gather", &["m", "nine"], &[]),
        one("a position before", "Gather", &["x", "negative"], &[("axis", Int(0))]),
        one("an axis beyond", "Gather", &["x", "zero"], &[("axis", Int(4))]),
        one("steps of zero", "Slice", &["x", "zero", "one", "zero", "zero"], &[]),
        one("an axis beyond", "Slice", &["x", "zero", "one", "nine"], &[]),
        one("lists of two lengths", "Slice", &["x", "zero", "pair"], &[]),
        one("parts that do not add up", "Split", &["x", "pair"], &[]),
        one("an axis beyond", "Flatten", &["x"], &[("axis", Int(5))]),
        one("dimensions that are not one", "Squeeze", &["x", "one"], &[]),
        one("an axis beyond", "Unsqueeze", &["x", "nine"], &[]),
        one("groups that do not divide", "GroupNormalization", &["x", "v", "v"], &[("num_groups", Int(3))]),
        one("an axis beyond", "LayerNormalization", &["x", "v"], &[("axis", Int(9))]),
        one("a scale of another length", "LayerNormalization", &["x", "v"], &[]),
        one("a kernel of zero", "MaxPool", &["x"], &[("kernel_shape", Ints(vec![0, 0]))]),
        one("a huge kernel", "MaxPool", &["x"], &[("kernel_shape", Ints(vec![1 << 30, 1 << 30])), pads(&[1 << 30; 4])]),
        one("no kernel", "AveragePool", &["x"], &[]),
        one("an unknown type", "Cast", &["x"], &[("to", Int(99))]),
        one("texts", "Cast", &["x"], &[("to", Int(8))]),
        one("no type", "Cast", &["x"], &[]),
        one("no equation", "Einsum", &["x"], &[]),
        one("an equation of another rank", "Einsum", &["x"], &[("equation", Text("ab->ba"))]),
        one("blocks of zero", "DepthToSpace", &["x"], &[("blocksize", Int(0))]),
        one("blocks that do not divide", "DepthToSpace", &["x"], &[("blocksize", Int(3))]),
        one("a depth of millions of millions", "OneHot", &["zero", "to", "v"], &[]),
        one("more than there are", "TopK", &["m", "huge"], &[]),
        one("an unknown attribute", "Relu", &["x"], &[("slope", Float(0.1))]),
        one("its slope as a text", "LeakyRelu", &["x"], &[("alpha", Text("0.1"))]),
        one("a computed condition", "If", &["x"], &[]),
        one("no value", "Constant", &[], &[]),
    ]
}
