//! Models whose messages contradict themselves or each other.

use crate::Case;
use crate::common::{Dim, Layout, Tensor, bytes, declare, graph, model, node, noise};
use onnx_protobuf::{FunctionProto, ModelProto, OperatorSetIdProto, TensorProto, type_proto};
use protobuf::MessageField;
use sara_compiler::import::{Binding, Model, import};
use sara_runtime::oracle::OracleType::*;
use std::path::Path;

/// What importing a file says.
pub(crate) fn refusal(path: &Path) -> Option<String> {
    let binding = Binding::default();
    Model::open(path).and_then(|m| import(&m, &binding)).err().map(|e| e.to_string())
}

/// What importing a model says.
pub(crate) fn refused(name: impl Into<String>, model: ModelProto) -> Case {
    Case::new(name, move |folder| {
        let path = folder.join("m.onnx");
        std::fs::write(&path, bytes(&model)).unwrap();
        refusal(&path)
    })
}

/// `y = x + w`.
pub(crate) fn sum() -> ModelProto {
    let w = Tensor::new(F32, &[2, 3], &noise(3, 6)).proto("w");
    let x = declare("x", F32, &[Dim::Fixed(2), Dim::Fixed(3)]);
    model(17, graph(vec![node("Add", &["x", "w"], &["y"], &[])], vec![x], vec![w], &["y"]))
}

fn weight(m: &mut ModelProto) -> &mut TensorProto {
    &mut m.graph.as_mut().unwrap().initializer[0]
}

type Change = fn(&mut ModelProto);

const CHANGES: &[(&str, Change)] = &[
    ("no graph", |m| m.graph = MessageField::none()),
    ("no nodes", |m| m.graph.as_mut().unwrap().node.clear()),
    ("no operator set", |m| m.opset_import.clear()),
    ("no outputs", |m| m.graph.as_mut().unwrap().output.clear()),
    ("an output that nobody makes", |m| m.graph.as_mut().unwrap().output[0].name = "z".into()),
    ("an unknown operator", |m| m.graph.as_mut().unwrap().node[0].op_type = "Frobnicate".into()),
    ("an unknown domain", |m| m.graph.as_mut().unwrap().node[0].domain = "com.example".into()),
    ("no operator", |m| m.graph.as_mut().unwrap().node[0].op_type.clear()),
    ("an undefined operand", |m| m.graph.as_mut().unwrap().node[0].input[1] = "v".into()),
    ("a node that reads itself", |m| m.graph.as_mut().unwrap().node[0].input[0] = "y".into()),
    ("a cycle", |m| {
        let graph = m.graph.as_mut().unwrap();
        graph.node[0].input[0] = "z".into();
        graph.node.push(node("Relu", &["y"], &["z"], &[]));
    }),
    ("nodes out of order", |m| {
        let graph = m.graph.as_mut().unwrap();
        graph.node.insert(0, node("Relu", &["y"], &["z"], &[]));
    }),
    ("a result made twice", |m| {
        let again = m.graph.as_ref().unwrap().node[0].clone();
        m.graph.as_mut().unwrap().node.push(again);
    }),
    ("a result called as an input", |m| m.graph.as_mut().unwrap().node[0].output[0] = "x".into()),
    ("two weights of one name", |m| {
        let again = weight(m).clone();
        m.graph.as_mut().unwrap().initializer.push(again);
    }),
    ("two inputs of one name", |m| {
        let again = m.graph.as_ref().unwrap().input[0].clone();
        m.graph.as_mut().unwrap().input.push(again);
    }),
    ("too few operands", |m| m.graph.as_mut().unwrap().node[0].input.truncate(1)),
    ("no operands", |m| m.graph.as_mut().unwrap().node[0].input.clear()),
    ("no results", |m| m.graph.as_mut().unwrap().node[0].output.clear()),
    ("an empty result", |m| m.graph.as_mut().unwrap().node[0].output[0].clear()),
    ("an input without a type", |m| m.graph.as_mut().unwrap().input[0].type_ = MessageField::none()),
    ("an input of texts", |m| set_element_type(m, 8)),
    ("an input of complex numbers", |m| set_element_type(m, 14)),
    ("an input of 8-bit floats", |m| set_element_type(m, 17)),
    ("an input of 4-bit integers", |m| set_element_type(m, 22)),
    ("an input of an unknown type", |m| set_element_type(m, 99)),
    ("a sparse weight", |m| {
        let values = weight(m).clone();
        let mut sparse = onnx_protobuf::SparseTensorProto::new();
        sparse.values = MessageField::some(values);
        m.graph.as_mut().unwrap().sparse_initializer.push(sparse);
    }),
    ("weights of texts", |m| weight(m).data_type = 8),
    ("weights of 8-bit floats", |m| weight(m).data_type = 19),
    ("weights of 4-bit integers", |m| weight(m).data_type = 21),
    ("weights of no type", |m| weight(m).data_type = 0),
    ("weights of an unknown type", |m| weight(m).data_type = 77),
    ("weights of a negative type", |m| weight(m).data_type = -1),
    ("a negative dimension", |m| weight(m).dims[0] = -2),
    ("the least dimension", |m| weight(m).dims[0] = i64::MIN),
    ("a huge dimension", |m| weight(m).dims[0] = i64::MAX),
    ("dimensions whose product overflows", |m| weight(m).dims = vec![1 << 32, 1 << 32, 3]),
    ("dimensions whose product is just too large", |m| weight(m).dims = vec![1 << 20, 1 << 20]),
    ("a dimension of zero beside a huge one", |m| weight(m).dims = vec![0, i64::MAX]),
    ("too many dimensions", |m| weight(m).dims = [vec![1; 20], vec![2, 3]].concat()),
    ("too few bytes", |m| weight(m).raw_data.truncate(20)),
    ("too many bytes", |m| weight(m).raw_data.extend([0; 4])),
    ("no bytes", |m| weight(m).raw_data.clear()),
    ("an odd number of bytes", |m| weight(m).raw_data.truncate(23)),
    ("bytes and numbers", |m| weight(m).float_data = vec![1.0; 6]),
    ("numbers of another type", |m| {
        weight(m).raw_data.clear();
        weight(m).int64_data = vec![1; 6];
    }),
    ("too few numbers", |m| {
        weight(m).raw_data.clear();
        weight(m).float_data = vec![1.0; 5];
    }),
    ("integers in the wrong field", |m| {
        *weight(m) = Tensor { layout: Layout::Typed, ..Tensor::new(I64, &[2, 3], &[1.0; 6]) }.proto("w");
        weight(m).data_type = 6;
    }),
    ("operands of two types", |m| *weight(m) = Tensor::new(F64, &[2, 3], &[1.0; 6]).proto("w")),
    ("operands that do not broadcast", |m| *weight(m) = Tensor::new(F32, &[2, 2], &[1.0; 4]).proto("w")),
    ("a function that calls itself", |m| call(m, &["f"])),
    ("functions that call each other", |m| call(m, &["g", "f"])),
];

fn set_element_type(m: &mut ModelProto, number: i32) {
    let ty = m.graph.as_mut().unwrap().input[0].type_.as_mut().unwrap();
    if let Some(type_proto::Value::TensorType(tensor)) = &mut ty.value {
        tensor.elem_type = number;
    }
}

/// Makes the model call `f`, and each function the next of `calls`, the last `f` itself.
fn call(m: &mut ModelProto, calls: &[&str]) {
    let names = [&["f"], &calls[..calls.len() - 1]].concat();
    for (name, next) in names.iter().zip(calls) {
        let mut function = FunctionProto::new();
        function.name = (*name).to_owned();
        function.domain = "own".into();
        function.input = vec!["a".into()];
        function.output = vec!["b".into()];
        let mut inner = node(next, &["a"], &["b"], &[]);
        inner.domain = "own".into();
        function.node = vec![inner];
        m.functions.push(function);
    }
    let mut set = OperatorSetIdProto::new();
    set.domain = "own".into();
    set.version = 1;
    m.opset_import.push(set);
    let graph = m.graph.as_mut().unwrap();
    let mut outer = node("f", &["x"], &["t"], &[]);
    outer.domain = "own".into();
    graph.node.insert(0, outer);
    graph.node[1].input[0] = "t".into();
}

pub(crate) fn cases() -> Vec<Case> {
    let change = |(name, change): &(&str, Change)| {
        let mut m = sum();
        change(&mut m);
        refused(format!("graph, {name}"), m)
    };
    CHANGES.iter().map(change).collect()
}
