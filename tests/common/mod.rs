//! ONNX models built in memory, for tests.

#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod pytorch;
pub(crate) mod recorder;
pub(crate) mod shim;

use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};
use protobuf::{EnumOrUnknown, MessageField};
use sara_kernels::DType;
use sara_runtime::oracle::OracleType;

/// Elements of one type, in an array.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    /// Element type.
    pub(crate) dtype: OracleType,
    /// Dimensions.
    pub(crate) shape: Vec<usize>,
    /// The elements. Rounded to the element type where they are written.
    pub(crate) values: Vec<f64>,
    /// How the elements lie in a model.
    pub(crate) layout: Layout,
}

/// How elements lie in a `TensorProto`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layout {
    /// In `raw_data`.
    Raw,
    /// In the field of the element type.
    Typed,
}

impl Tensor {
    /// A tensor in `raw_data`.
    pub(crate) fn new(dtype: OracleType, shape: &[usize], values: &[f64]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{shape:?}");
        Tensor { dtype, shape: shape.to_vec(), values: values.to_vec(), layout: Layout::Raw }
    }

    /// The elements in little-endian bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.values.iter().flat_map(|v| encode(*v, self.dtype)).collect()
    }

    /// As an ONNX tensor.
    pub(crate) fn proto(&self, name: &str) -> TensorProto {
        let mut proto = TensorProto::new();
        proto.name = name.to_owned();
        proto.dims = self.shape.iter().map(|d| *d as i64).collect();
        proto.data_type = self.dtype.onnx();
        if self.layout == Layout::Raw {
            proto.raw_data = self.bytes();
            return proto;
        }
        let halves = || self.bytes().chunks(2).map(|b| i32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
        match self.dtype {
            OracleType::F32 => proto.float_data = self.values.iter().map(|v| *v as f32).collect(),
            OracleType::F64 => proto.double_data = self.values.clone(),
            OracleType::I64 => proto.int64_data = self.values.iter().map(|v| *v as i64).collect(),
            OracleType::U32 | OracleType::U64 => proto.uint64_data = self.values.iter().map(|v| *v as u64).collect(),
            OracleType::F16 | OracleType::BF16 => proto.int32_data = halves(),
            _ => proto.int32_data = self.values.iter().map(|v| *v as i32).collect(),
        }
        proto
    }
}

/// One number in the little-endian bytes of its type.
pub(crate) fn encode(v: f64, dtype: OracleType) -> Vec<u8> {
    match dtype {
        OracleType::F32 => (v as f32).to_le_bytes().to_vec(),
        OracleType::F64 => v.to_le_bytes().to_vec(),
        OracleType::F16 => half::f16::from_f64(v).to_le_bytes().to_vec(),
        OracleType::BF16 => half::bf16::from_f64(v).to_le_bytes().to_vec(),
        OracleType::I64 => (v as i64).to_le_bytes().to_vec(),
        OracleType::I32 => (v as i32).to_le_bytes().to_vec(),
        OracleType::I16 => (v as i16).to_le_bytes().to_vec(),
        OracleType::I8 => (v as i8).to_le_bytes().to_vec(),
        OracleType::U64 => (v as u64).to_le_bytes().to_vec(),
        OracleType::U32 => (v as u32).to_le_bytes().to_vec(),
        OracleType::U16 => (v as u16).to_le_bytes().to_vec(),
        OracleType::U8 => vec![v as u8],
        OracleType::Bool => vec![u8::from(v != 0.0)],
    }
}

/// The numbers in bytes.
pub(crate) fn decode(bytes: &[u8], dtype: OracleType) -> Vec<f64> {
    fn all<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(bytes: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
        bytemuck::pod_collect_to_vec::<u8, T>(bytes).into_iter().map(f).collect()
    }
    match dtype {
        OracleType::F32 => all(bytes, |v: f32| v.into()),
        OracleType::F64 => all(bytes, |v: f64| v),
        OracleType::F16 => all(bytes, |v: half::f16| v.to_f64()),
        OracleType::BF16 => all(bytes, |v: half::bf16| v.to_f64()),
        OracleType::I64 => all(bytes, |v: i64| v as f64),
        OracleType::I32 => all(bytes, |v: i32| v.into()),
        OracleType::I16 => all(bytes, |v: i16| v.into()),
        OracleType::I8 => all(bytes, |v: i8| v.into()),
        OracleType::U64 => all(bytes, |v: u64| v as f64),
        OracleType::U32 => all(bytes, |v: u32| v.into()),
        OracleType::U16 => all(bytes, |v: u16| v.into()),
        OracleType::U8 | OracleType::Bool => all(bytes, |v: u8| v.into()),
    }
}

/// The type of arrays for a type that kernels compute on.
pub(crate) fn oracle_type(dtype: DType) -> OracleType {
    let same = OracleType::ALL.iter().copied().find(|t| t.name() == dtype.name());
    same.unwrap_or_else(|| panic!("arrays have no type {dtype}"))
}

/// A dimension of an input.
#[derive(Clone, Debug)]
pub(crate) enum Dim {
    /// Of this size.
    Fixed(usize),
    /// Open, with a name.
    Named(&'static str),
    /// Open, without one.
    Unnamed,
}

/// The declaration of an input.
pub(crate) fn declare(name: &str, dtype: OracleType, dims: &[Dim]) -> ValueInfoProto {
    let mut shape = TensorShapeProto::new();
    for dim in dims {
        let mut d = tensor_shape_proto::Dimension::new();
        d.value = match dim {
            Dim::Fixed(size) => Some(tensor_shape_proto::dimension::Value::DimValue(*size as i64)),
            Dim::Named(name) => Some(tensor_shape_proto::dimension::Value::DimParam((*name).to_owned())),
            Dim::Unnamed => None,
        };
        shape.dim.push(d);
    }
    let mut tensor = type_proto::Tensor::new();
    tensor.elem_type = dtype.onnx();
    tensor.shape = MessageField::some(shape);
    let mut ty = TypeProto::new();
    ty.value = Some(type_proto::Value::TensorType(tensor));
    let mut info = ValueInfoProto::new();
    info.name = name.to_owned();
    info.type_ = MessageField::some(ty);
    info
}

/// The declaration of an output, whose type the nodes tell.
pub(crate) fn result(name: &str) -> ValueInfoProto {
    let mut info = ValueInfoProto::new();
    info.name = name.to_owned();
    info
}

/// An attribute of a node.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// An integer.
    Int(i64),
    /// A real number.
    Float(f32),
    /// A text.
    Text(&'static str),
    /// Integers.
    Ints(Vec<i64>),
    /// Real numbers.
    Floats(Vec<f32>),
    /// A tensor.
    Tensor(Tensor),
    /// A graph.
    Graph(GraphProto),
}

/// An attribute with its name.
pub(crate) type Attr = (&'static str, Value);

/// A node.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attrs: &[Attr]) -> NodeProto {
    let mut node = NodeProto::new();
    node.op_type = op.to_owned();
    node.name = format!("{op}_of_{}", outputs.first().unwrap_or(&""));
    node.input = inputs.iter().map(|s| (*s).to_owned()).collect();
    node.output = outputs.iter().map(|s| (*s).to_owned()).collect();
    for (name, value) in attrs {
        let mut attr = AttributeProto::new();
        attr.name = (*name).to_owned();
        let kind = match value {
            Value::Int(v) => {
                attr.i = *v;
                AttributeType::INT
            }
            Value::Float(v) => {
                attr.f = *v;
                AttributeType::FLOAT
            }
            Value::Text(v) => {
                attr.s = v.as_bytes().to_vec();
                AttributeType::STRING
            }
            Value::Ints(v) => {
                attr.ints = v.clone();
                AttributeType::INTS
            }
            Value::Floats(v) => {
                attr.floats = v.clone();
                AttributeType::FLOATS
            }
            Value::Graph(v) => {
                attr.g = MessageField::some(v.clone());
                AttributeType::GRAPH
            }
            Value::Tensor(v) => {
                attr.t = MessageField::some(v.proto(""));
                AttributeType::TENSOR
            }
        };
        attr.type_ = EnumOrUnknown::new(kind);
        node.attribute.push(attr);
    }
    node
}

/// A model around a graph.
pub(crate) fn model(opset: i64, graph: GraphProto) -> ModelProto {
    let mut set = OperatorSetIdProto::new();
    set.version = opset;
    let mut model = ModelProto::new();
    model.ir_version = 8;
    model.opset_import = vec![set];
    model.graph = MessageField::some(graph);
    model
}

/// A graph.
pub(crate) fn graph(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    initialisers: Vec<TensorProto>,
    outputs: &[&str],
) -> GraphProto {
    let mut graph = GraphProto::new();
    graph.name = "test".to_owned();
    graph.node = nodes;
    graph.input = inputs;
    graph.initializer = initialisers;
    graph.output = outputs.iter().map(|o| result(o)).collect();
    graph
}

/// The bytes of a model file.
pub(crate) fn bytes(model: &ModelProto) -> Vec<u8> {
    model.write_to_bytes().unwrap_or_else(|e| panic!("a model cannot be written: {e}"))
}

/// Numbers in 0..1 that depend on the seed only.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    (0..len)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        })
        .collect()
}
