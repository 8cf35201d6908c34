//! Gradients of the cases in double precision, against central differences (eps 1e-6, atol 1e-5, rtol 1e-3).

#![allow(dead_code, reason = "each test uses a part")]

use super::case::Case;
use super::common::{decode, encode, noise, oracle_type};
use super::outcome::{clean, convert, open, split};
use libtest_mimic::Failed;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use sara_compiler::evaluate::execute;
use sara_compiler::import::{Model, import, read_weight};
use sara_compiler::ir::{Block, Def, Graph, ValueId};
use sara_compiler::loss::{Loss, TARGET};
use sara_compiler::passes::differentiate::gradients;
use sara_kernels::DType;
use sara_runtime::oracle::{Array, OracleType};
use std::collections::{BTreeSet, HashMap};
use std::fmt;

const EPSILON: f64 = 1e-6;
const ABSOLUTE: f64 = 1e-5;
const RELATIVE: f64 = 1e-3;

/// Elements of one operand that are moved.
const ELEMENTS: usize = 16;

/// What was found about the gradients of a case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slope {
    /// They are the slopes.
    Right,
    /// No result is a real number that depends on a real operand in a way that has a slope.
    Flat,
    /// There is no gradient, for this reason.
    Refused(String),
}

impl fmt::Display for Slope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slope::Right => f.write_str(", gradient"),
            Slope::Flat => Ok(()),
            Slope::Refused(why) => write!(f, ", no gradient: {why}"),
        }
    }
}

/// Checks the gradients of every result with respect to every real operand.
pub(crate) fn check(case: &Case) -> Result<Slope, String> {
    check_scaled(case, 1.0)
}

/// The same with all gradients multiplied by a number, which only 1 survives.
fn check_scaled(case: &Case, scale: f64) -> Result<Slope, String> {
    let double = double(case);
    let real = |t: &TensorProto| t.data_type == OracleType::F64.onnx();
    let open: Vec<&String> = double.inputs.iter().filter(|i| i.1.as_ref().is_some_and(real)).map(|i| &i.0).collect();
    let mut refusal = None;
    // Operands that decide shapes are constants; if not all real ones can be inputs, each is alone.
    for open in std::iter::once(&open[..]).chain(open.chunks(1)) {
        let constant = double.inputs.iter().map(|i| &i.0).filter(|n| !open.contains(n)).cloned().collect();
        match slopes(&double, &constant, scale) {
            Ok(found) => return found,
            Err(why) => refusal = refusal.or(Some(why)),
        }
    }
    Ok(refusal.map_or(Slope::Flat, Slope::Refused))
}

/// The outer error is a refusal.
fn slopes(case: &Case, constant: &BTreeSet<String>, scale: f64) -> Result<Result<Slope, String>, String> {
    let (proto, data) = split(case, constant);
    let (model, binding) = open(&proto, &data)?;
    let graph = import(&model, &binding).map_err(|e| clean(&e.to_string()))?;
    let mut slope = Slope::Flat;
    for output in 0..graph.returns.len() {
        if !graph.ty(graph.returns[output].1).dtype.is_float() {
            continue;
        }
        let mut alone = graph.clone();
        alone.returns = vec![("y".to_owned(), graph.returns[output].1)];
        match of_output(&model, &mut alone, &data, scale)? {
            Ok(Slope::Flat) => {}
            Ok(found) if slope == Slope::Flat => slope = found,
            Ok(_) => {}
            Err(why) => return Ok(Err(format!("gradient of result {output}: {why}"))),
        }
    }
    Ok(Ok(slope))
}

/// A graph of one result.
fn of_output(
    model: &Model,
    graph: &mut Graph,
    data: &HashMap<String, Array>,
    scale: f64,
) -> Result<Result<Slope, String>, String> {
    let forward = graph.clone();
    let len = graph.ty(graph.returns[0].1).len();
    let wanted: Vec<(ValueId, String)> = graph
        .values()
        .filter_map(|(id, v)| match &v.def {
            Def::Arg(name) if v.ty.dtype == DType::F64 && !v.ty.is_empty() => Some((id, name.clone())),
            _ => None,
        })
        .collect();
    if len == 0 || wanted.is_empty() {
        return Ok(Ok(Slope::Flat));
    }
    let run = |graph: &Graph, moved: Option<(&str, usize, f64)>, target: &[f64]| {
        let values = |id| match &graph.value(id).def {
            Def::Weight(w) => read_weight(model, &graph.weights[*w]).ok(),
            Def::Arg(name) if name == TARGET => Some(bytemuck::cast_slice(target).to_vec()),
            Def::Arg(name) => {
                let mut bytes = convert(data.get(name)?, graph.ty(id).dtype);
                if let Some((_, at, by)) = moved.filter(|m| m.0 == name) {
                    let value = decode(&bytes[at * 8..at * 8 + 8], OracleType::F64)[0] + by;
                    bytes[at * 8..at * 8 + 8].copy_from_slice(&encode(value, OracleType::F64));
                }
                Some(bytes)
            }
            _ => None,
        };
        execute(graph, &Block::ALL, values).map_err(|e| e.to_string())
    };
    let value = |moved| -> Result<Vec<f64>, String> { Ok(decode(&run(&forward, moved, &[])?["y"], OracleType::F64)) };
    let ids: Vec<ValueId> = wanted.iter().map(|w| w.0).collect();
    let loss = Loss::default().add(graph).map_err(|e| e.to_string())?;
    let found = gradients(graph, loss, &ids).map_err(|e| clean(&e.to_string()))?;
    let here = value(None)?;
    if here.iter().any(|v| !v.is_finite()) {
        return Ok(Ok(Slope::Refused("a result is not finite".to_owned())));
    }
    // The loss mean((y - target)^2) then has the slope `weights * 2 / len`.
    let weights: Vec<f64> = noise(3, len).iter().map(|v| 0.5 + v).collect();
    let target: Vec<f64> = here.iter().zip(&weights).map(|(y, w)| y - w).collect();
    graph.returns = found.iter().flat_map(|(id, g)| g.map(|g| (format!("{}", id.0), g))).collect();
    let results = if graph.returns.is_empty() { Default::default() } else { run(graph, None, &target)? };
    let mut slope = Slope::Flat;
    for (id, name) in &wanted {
        let size = graph.ty(*id).len();
        let gradient = results.get(&id.0.to_string()).map(|b| decode(b, oracle_type(DType::F64)));
        let step = size.div_ceil(ELEMENTS);
        for at in (0..size).step_by(step) {
            let sum = |by: f64| -> Result<f64, String> {
                let moved = value(Some((name, at, by)))?;
                Ok(moved
                    .iter()
                    .zip(&here)
                    .zip(&weights)
                    .map(|((a, b), w)| if a == b { 0.0 } else { (a - b) * w })
                    .sum())
            };
            let (up, down) = (sum(EPSILON)? / EPSILON, -sum(-EPSILON)? / EPSILON);
            let far = sum(2.0 * EPSILON)? / (2.0 * EPSILON);
            let (numeric, allowed) = ((up + down) / 2.0, ABSOLUTE + RELATIVE * up.abs().max(down.abs()));
            // At a kink, a jump or outside the domain there is no slope.
            if !((up - down).abs() <= allowed && (up - far).abs() <= allowed) {
                continue;
            }
            match &gradient {
                None if numeric.abs() > ABSOLUTE => {
                    return Ok(Err(format!("`{name}` has the slope {numeric} at {at} and no gradient")));
                }
                None => {}
                Some(gradient) => {
                    let analytic = scale * gradient[at] * len as f64 / 2.0;
                    let near = (analytic - numeric).abs() <= allowed;
                    if !near {
                        return Ok(Err(format!("`{name}` has the slope {numeric} at {at}, not {analytic}")));
                    }
                    slope = Slope::Right;
                }
            }
        }
    }
    Ok(Ok(slope))
}

/// Every case whose gradient is right must be found wrong when it is turned round.
pub(crate) fn negative_control(cases: &[Case]) -> Result<(), Failed> {
    for name in ["test_gemm_all_attributes", "test_softmax_axis_1", "test_tanh", "test_basic_conv_with_padding"] {
        let case = cases.iter().find(|c| c.name == name).ok_or("the case is not there")?;
        if check(case)? != Slope::Right {
            return Err(format!("{name} has no gradient").into());
        }
        for scale in [-1.0, 0.0, 1.01] {
            if check_scaled(case, scale).is_ok() {
                return Err(format!("a gradient of {name} times {scale} is not found wrong").into());
            }
        }
    }
    Ok(())
}

/// The case with every real number in double precision.
fn double(case: &Case) -> Case {
    let mut case = case.clone();
    let graph = case.model.graph.mut_or_insert_default();
    double_graph(graph);
    for function in &mut case.model.functions {
        function.node.iter_mut().for_each(double_node);
        function.attribute_proto.iter_mut().for_each(double_attribute);
    }
    case.inputs.iter_mut().flat_map(|i| &mut i.1).for_each(double_tensor);
    case
}

fn is_real(number: i32) -> bool {
    OracleType::from_onnx(number).is_some_and(|t| matches!(t, OracleType::F32 | OracleType::F16 | OracleType::BF16))
}

fn double_graph(graph: &mut GraphProto) {
    graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info).for_each(double_value);
    graph.initializer.iter_mut().for_each(double_tensor);
    graph.node.iter_mut().for_each(double_node);
}

fn double_value(info: &mut ValueInfoProto) {
    let ty = info.type_.mut_or_insert_default();
    if ty.has_tensor_type() && is_real(ty.tensor_type().elem_type) {
        ty.mut_tensor_type().elem_type = OracleType::F64.onnx();
    }
}

fn double_node(node: &mut NodeProto) {
    node.attribute.iter_mut().for_each(double_attribute);
}

fn double_attribute(attribute: &mut AttributeProto) {
    // Constants that are single precision by their name become tensors.
    let constant = match attribute.name.as_str() {
        "value_float" => Some((vec![], vec![attribute.f])),
        "value_floats" => Some((vec![attribute.floats.len() as i64], attribute.floats.clone())),
        _ => None,
    };
    if let Some((dims, values)) = constant {
        let tensor =
            TensorProto { dims, data_type: OracleType::F32.onnx(), float_data: values, ..TensorProto::default() };
        *attribute = AttributeProto { name: "value".to_owned(), t: Some(tensor).into(), ..AttributeProto::default() };
        attribute.type_ = AttributeType::TENSOR.into();
    }
    if matches!(attribute.name.as_str(), "to" | "dtype") && is_real(attribute.i as i32) {
        attribute.i = i64::from(OracleType::F64.onnx());
    }
    if let Some(tensor) = attribute.t.as_mut() {
        double_tensor(tensor);
    }
    if let Some(graph) = attribute.g.as_mut() {
        double_graph(graph);
    }
}

fn double_tensor(tensor: &mut TensorProto) {
    let Some(dtype) = OracleType::from_onnx(tensor.data_type).filter(|_| is_real(tensor.data_type)) else { return };
    let values: Vec<f64> = match tensor.raw_data.is_empty() {
        false => decode(&tensor.raw_data, dtype),
        true if dtype == OracleType::F32 => tensor.float_data.iter().map(|v| f64::from(*v)).collect(),
        true if tensor.int32_data.is_empty() => Vec::new(),
        true => return,
    };
    tensor.float_data.clear();
    tensor.raw_data = values.into_iter().flat_map(f64::to_le_bytes).collect();
    tensor.data_type = OracleType::F64.onnx();
}
