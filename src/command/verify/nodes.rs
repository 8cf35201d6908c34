//! Node by node: each node is imported alone and computed on the values that ONNX Runtime feeds it, so that errors neither add up
//! nor hide one another.

use super::values::{Values, difference};
use crate::command::{Failure, report};
use prost::Message;
use sara_compiler::evaluate::{execute, execute_by};
use sara_compiler::import::proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto,
};
use sara_compiler::import::{Binding, Model, checked, import, read_weight};
use sara_compiler::ir::{Block, Def};
use sara_runtime::device::Device;
use sara_runtime::oracle::{Array, Oracle, SessionOptions, expose};
use sara_runtime::tensor::{Tensor, Tensors};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};

/// Bytes of inner values that are held at a time, unless the values of one node are more.
const PORTION: usize = 512 << 20;
/// Results in half precision are rounded by ONNX Runtime and not by us: half a unit in their last place.
const HALF_ROUNDING: f64 = 1.0 / 2048.0;
/// Small operands become constants of the node, as they were in the model: shapes, axes, bounds.
const CONSTANT: usize = 64;

/// How the nodes compare.
#[derive(Serialize)]
pub(super) struct Report {
    compared: usize,
    /// The largest difference of each operator, largest first.
    operators: Vec<Operator>,
    /// Nodes that differ by more than allowed, and why.
    pub(super) failed: Vec<String>,
}

/// The nodes of one operator.
#[derive(Serialize)]
struct Operator {
    operator: String,
    nodes: usize,
    difference: f64,
    worst: String,
}

impl Report {
    fn add(&mut self, node: &NodeProto, difference: f64, allowed: f64) {
        self.compared += 1;
        let name = label(node);
        if difference > allowed || difference.is_nan() {
            self.failed.push(format!("{name} ({}): {difference:.1e}", node.op_type));
        }
        match self.operators.iter_mut().find(|o| o.operator == node.op_type) {
            Some(entry) => {
                entry.nodes += 1;
                if difference > entry.difference {
                    (entry.difference, entry.worst) = (difference, name);
                }
            }
            None => self.operators.push(Operator { operator: node.op_type.clone(), nodes: 1, difference, worst: name }),
        }
    }

    pub(super) fn print(&self) {
        say!("  {} nodes, each on ONNX Runtime's own values; by operator:", self.compared);
        let rows: Vec<Vec<String>> = self
            .operators
            .iter()
            .map(|o| vec![format!("  {}", o.operator), o.nodes.to_string(), format!("{:.1e}", o.difference)])
            .collect();
        say!("{}", report::table(&rows));
        for failed in &self.failed {
            say!("  FAILED {failed}");
        }
    }
}

fn label(node: &NodeProto) -> String {
    let output = || node.output.first().cloned().unwrap_or_default();
    if node.name.is_empty() { output() } else { node.name.clone() }
}

/// Compares every node of the main graph.
pub(super) fn verify(
    oracle: &Oracle,
    model: &Model,
    values: &Values,
    device: Option<Box<dyn Device>>,
    tolerance: f64,
) -> Result<Report, Failure> {
    let nodes: Vec<&NodeProto> = model.graph().node.iter().filter(|n| n.op_type != "Constant").collect();
    let names: BTreeSet<&str> =
        nodes.iter().flat_map(|n| &n.output).map(String::as_str).filter(|n| !n.is_empty()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let (encoded, folder) = checked(model)?;
    let mut report = Report { compared: 0, operators: Vec::new(), failed: Vec::new() };
    let mut single = Single::new(model, device);
    let (mut start, mut count) = (0, 64);
    while start < nodes.len() {
        let portion = &nodes[start..nodes.len().min(start + count)];
        let wanted: BTreeSet<&str> = portion
            .iter()
            .flat_map(|n| n.output.iter().chain(&n.input))
            .map(String::as_str)
            .filter(|n| names.binary_search(n).is_ok())
            .collect();
        let wanted: Vec<&str> = wanted.into_iter().collect();
        // A session keeps the memory of everything that it exposes, so each portion has its own.
        let bytes = expose::expose(&encoded, &wanted)?;
        let mut session = oracle.session_from_bytes(&bytes, &folder, &SessionOptions::default())?;
        let mut found: HashMap<String, Array> = session.run_selected(&values.arrays, &wanted)?.into_iter().collect();
        drop(session);
        let held: usize = found.values().map(|a| a.bytes.len()).sum();
        found.extend(values.arrays.iter().cloned());
        for node in portion {
            match single.difference(node, &found) {
                Ok((difference, rounding)) => report.add(node, difference, tolerance.max(rounding)),
                Err(reason) => {
                    report.compared += 1;
                    report.failed.push(format!("{} ({}): {reason}", label(node), node.op_type));
                }
            }
        }
        start += portion.len();
        // The next portion is as long as would have filled the memory this time.
        count = (portion.len() * PORTION / held.max(1)).clamp(1, 2 * portion.len());
    }
    report.operators.sort_by(|a, b| b.difference.total_cmp(&a.difference).then(a.operator.cmp(&b.operator)));
    Ok(report)
}

/// Makes models of one node.
struct Single<'m> {
    model: &'m Model,
    constants: HashMap<&'m str, &'m TensorProto>,
    /// What computes, if not the CPU.
    device: Option<Box<dyn Device>>,
}

impl<'m> Single<'m> {
    fn new(model: &'m Model, device: Option<Box<dyn Device>>) -> Single<'m> {
        let graph = model.graph();
        let attributes = graph.node.iter().filter(|n| n.op_type == "Constant").filter_map(|n| {
            let tensor = n.attribute.iter().find(|a| a.name == "value")?.t.as_ref()?;
            Some((n.output.first()?.as_str(), tensor))
        });
        let constants = graph.initializer.iter().map(|t| (t.name.as_str(), t)).chain(attributes).collect();
        Single { model, constants, device }
    }

    /// Largest difference of a node's results from those of ONNX Runtime, and what rounding to their type may make.
    fn difference(&mut self, node: &NodeProto, values: &HashMap<String, Array>) -> Result<(f64, f64), String> {
        // What has to be constant differs between operators; most floats need not, so they are tried as inputs first.
        let found = self.compute(node, values, false).or_else(|_| self.compute(node, values, true))?;
        let (mut worst, mut rounding) = (0.0_f64, 0.0_f64);
        for (name, found) in found {
            let array = values.get(&name).ok_or_else(|| format!("ONNX Runtime gave no `{name}`"))?;
            let expected = array.to_tensor().ok_or("a result of an unexpected size")?;
            worst = worst.max(difference(&expected, &found));
            rounding = rounding.max(if array.dtype.size() == 2 { HALF_ROUNDING } else { 0.0 });
        }
        Ok((worst, rounding))
    }

    fn compute(
        &mut self,
        node: &NodeProto,
        values: &HashMap<String, Array>,
        small_floats: bool,
    ) -> Result<Tensors, String> {
        let mut graph = GraphProto { node: vec![node.clone()], ..GraphProto::default() };
        let mut binding = Binding::default();
        let operands: BTreeSet<&String> = node.input.iter().filter(|n| !n.is_empty()).collect();
        for name in operands {
            if let Some(tensor) = self.constants.get(name.as_str()) {
                graph.initializer.push(TensorProto { name: name.clone(), ..(*tensor).clone() });
                continue;
            }
            let array = values.get(name).ok_or_else(|| format!("operand `{name}` is unknown"))?;
            let real = array.to_tensor().is_some_and(|t| t.dtype().is_float());
            let len: usize = array.shape.iter().product();
            if len <= CONSTANT && (small_floats || !real) {
                graph.initializer.push(constant(name, array));
            } else {
                graph.input.push(input(name, array));
                binding.shapes.insert(name.clone(), array.shape.clone());
            }
        }
        let outputs = node.output.iter().filter(|n| values.contains_key(*n));
        graph.output = outputs.map(|n| ValueInfoProto { name: n.clone(), r#type: None }).collect();
        let proto = ModelProto {
            ir_version: self.model.proto.ir_version,
            opset_import: self.model.proto.opset_import.clone(),
            graph: Some(graph),
            ..ModelProto::default()
        };
        let model = Model::from_bytes(self.model.path(), proto.encode_to_vec().into()).map_err(|e| e.to_string())?;
        let graph = import(&model, &binding).map_err(|e| e.to_string())?;
        let data = |id| match &graph.value(id).def {
            Def::Arg(name) => {
                let tensor = values.get(name)?.to_tensor()?;
                Some(tensor.to_dtype(graph.value(id).ty.dtype)?.bytes())
            }
            Def::Weight(w) => read_weight(&model, &graph.weights[*w]).ok(),
            _ => None,
        };
        let results = match &mut self.device {
            None => execute(&graph, &[Block::Forward], data),
            Some(device) => execute_by(&graph, &[Block::Forward], data, |memory, buffers, steps| {
                memory.run_on(buffers, steps, device.as_mut())
            }),
        }
        .map_err(|e| e.to_string())?;
        let mut tensors = Tensors::new();
        for (name, id) in &graph.returns {
            let ty = &graph.value(*id).ty;
            let tensor = results.get(name).and_then(|bytes| Tensor::from_bytes(ty.dtype, &ty.shape, bytes));
            tensors.insert(name.clone(), tensor.ok_or_else(|| format!("no result `{name}`"))?);
        }
        Ok(tensors)
    }
}

fn constant(name: &str, array: &Array) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: array.shape.iter().map(|d| *d as i64).collect(),
        data_type: array.dtype.onnx(),
        raw_data: array.bytes.clone().into(),
        ..TensorProto::default()
    }
}

fn input(name: &str, array: &Array) -> ValueInfoProto {
    let dim = |d: &usize| DimensionProto { dim_value: Some(*d as i64), dim_param: None };
    let shape = TensorShapeProto { dim: array.shape.iter().map(dim).collect() };
    let tensor_type = TensorTypeProto { elem_type: array.dtype.onnx(), shape: Some(shape) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
