//! ONNX nodes against ONNX Runtime: every entry of the import table, over its attributes and the operator sets in which it
//! changed.
//!
//! Each case runs twice: with its operands as inputs, and with all of them as initialisers, so that constants are folded. Each
//! time the graph is executed as imported and once more after the passes before training.

mod common;

#[path = "nodes/arithmetic.rs"]
mod arithmetic;
#[path = "nodes/blocks.rs"]
mod blocks;
#[path = "nodes/control.rs"]
mod control;
#[path = "nodes/layers.rs"]
mod layers;
#[path = "nodes/positions.rs"]
mod positions;
#[path = "nodes/shapes.rs"]
mod shapes;

use common::{Dim, Layout, Tensor, Value, decode, encode, node, noise, oracle_type};
use libtest_mimic::{Arguments, Failed, Trial};
use sara_compiler::compile::{canonical, unobserved};
use sara_compiler::evaluate::execute;
use sara_compiler::import::{self, Binding, Model, import, read_weight};
use sara_compiler::ir::verify::verify;
use sara_compiler::ir::{Block, Def, Graph};
use sara_compiler::ops::IMPORTS;
use sara_kernels::DType;
use sara_runtime::oracle::OracleType::{self, *};
use sara_runtime::oracle::{Array, Oracle, SessionOptions};
use std::collections::BTreeSet;

/// Cases that ONNX Runtime cannot run: it has no kernel for them. They must still compile and run here.
const NO_KERNEL: &[&str] = &["Mean/13 of f64", "Where/16 of bool", "GlobalLpPool/22 p 3", "SwiGLU/28"];

/// Cases in which the compiler is known to differ from ONNX Runtime.
const KNOWN: &[&str] = &[];

/// Results that are the same operations in the same order on both sides differ by rounding only.
const EXACT: f64 = 1e-5;

/// Results that are not.
const LOOSE: f64 = 2e-4;

/// Half precision is computed in `f32` here and rounded at each step there.
const HALF: f64 = 2e-2;

/// An operand.
#[derive(Clone, Debug)]
struct Operand {
    tensor: Option<Tensor>,
    constant: bool,
}

impl Operand {
    /// The same as an initialiser.
    fn c(self) -> Operand {
        Operand { constant: true, ..self }
    }
}

/// An operand with these elements.
fn t(dtype: OracleType, shape: &[usize], values: &[f64]) -> Operand {
    Operand { tensor: Some(Tensor::new(dtype, shape, values)), constant: false }
}

/// Real numbers in -2..2.
fn f(shape: &[usize]) -> Operand {
    let len = shape.iter().product();
    let values: Vec<f64> = noise(shape.iter().fold(7, |s, d| s * 31 + *d as u64), len);
    t(F32, shape, &values.iter().map(|v| 4.0 * v - 2.0).collect::<Vec<_>>())
}

/// Other real numbers in -2..2.
fn g(shape: &[usize]) -> Operand {
    let values: Vec<f64> = noise(shape.iter().fold(11, |s, d| s * 37 + *d as u64), shape.iter().product());
    t(F32, shape, &values.iter().map(|v| 4.0 * v - 2.0).collect::<Vec<_>>())
}

/// Real numbers in 0.5..2.
fn p(shape: &[usize]) -> Operand {
    let values: Vec<f64> = noise(shape.iter().fold(13, |s, d| s * 41 + *d as u64), shape.iter().product());
    t(F32, shape, &values.iter().map(|v| 0.5 + 1.5 * v).collect::<Vec<_>>())
}

/// These real numbers.
fn fs(values: &[f64]) -> Operand {
    t(F32, &[values.len()], values)
}

/// A constant vector of integers.
fn ci(values: &[i64]) -> Operand {
    t(I64, &[values.len()], &values.iter().map(|v| *v as f64).collect::<Vec<_>>()).c()
}

/// A constant vector of real numbers.
fn cf(values: &[f64]) -> Operand {
    fs(values).c()
}

/// A constant real number of rank 0.
fn cs(value: f64) -> Operand {
    t(F32, &[], &[value]).c()
}

/// An operand that is absent.
fn no() -> Operand {
    Operand { tensor: None, constant: false }
}

fn int(v: i64) -> Value {
    Value::Int(v)
}

fn flt(v: f32) -> Value {
    Value::Float(v)
}

fn txt(v: &'static str) -> Value {
    Value::Text(v)
}

fn ints(v: &[i64]) -> Value {
    Value::Ints(v.to_vec())
}

/// A model of a few nodes.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    opset: i64,
    operands: Vec<(String, Operand)>,
    nodes: Vec<onnx_protobuf::NodeProto>,
    outputs: Vec<String>,
    tolerance: f64,
}

impl Case {
    /// A node with one result.
    fn new(op: &str, opset: i64, about: &str, operands: Vec<Operand>, attrs: &[common::Attr]) -> Case {
        Case::with_outputs(op, opset, about, operands, attrs, 1)
    }

    /// A node with several results.
    fn with_outputs(
        op: &str,
        opset: i64,
        about: &str,
        operands: Vec<Operand>,
        attrs: &[common::Attr],
        outputs: usize,
    ) -> Case {
        let names: Vec<String> = operands
            .iter()
            .enumerate()
            .map(|(i, o)| o.tensor.as_ref().map_or(String::new(), |_| format!("x{i}")))
            .collect();
        let outputs: Vec<String> = (0..outputs).map(|i| format!("y{i}")).collect();
        let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let results: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let nodes = vec![node(op, &inputs, &results, attrs)];
        let operands = names.iter().cloned().zip(operands).filter(|o| o.1.tensor.is_some()).collect();
        let name = if about.is_empty() { format!("{op}/{opset}") } else { format!("{op}/{opset} {about}") };
        Case { name, opset, operands, nodes, outputs, tolerance: EXACT }
    }

    /// Several nodes; the last result is the model's.
    fn chain(name: &str, opset: i64, operands: Vec<(&str, Operand)>, nodes: Vec<onnx_protobuf::NodeProto>) -> Case {
        let last = nodes.last().and_then(|n| n.output.last().cloned()).unwrap_or_default();
        let operands = operands.into_iter().map(|(n, o)| (n.to_owned(), o)).collect();
        let name = format!("chain/{opset} {name}");
        Case { name, opset, operands, nodes, outputs: vec![last], tolerance: EXACT }
    }

    /// The same, where rounding differs.
    fn loose(self) -> Case {
        Case { tolerance: LOOSE, ..self }
    }

    /// The same with all operands constant.
    fn folded(mut self) -> Case {
        self.operands.iter_mut().for_each(|(_, o)| o.constant = true);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut inputs = Vec::new();
        let mut initialisers = Vec::new();
        for (name, operand) in &self.operands {
            let Some(tensor) = &operand.tensor else { continue };
            if operand.constant {
                initialisers.push(tensor.proto(name));
            } else {
                let dims: Vec<Dim> = tensor.shape.iter().map(|d| Dim::Fixed(*d)).collect();
                inputs.push(common::declare(name, tensor.dtype, &dims));
            }
        }
        let outputs: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        common::bytes(&common::model(self.opset, common::graph(self.nodes.clone(), inputs, initialisers, &outputs)))
    }

    fn inputs(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let open = self.operands.iter().filter(|o| !o.1.constant);
        open.filter_map(|(name, o)| o.tensor.as_ref().map(|t| (name.as_str(), t)))
    }
}

/// A result: its element type, shape and elements.
type Found = (DType, Vec<usize>, Vec<f64>);

/// What the compiler's graph of the case computes.
fn run_graph(case: &Case, model: &Model, graph: &Graph) -> Result<Vec<Found>, String> {
    verify(graph, "test").map_err(|e| e.to_string())?;
    let data = |id| match &graph.value(id).def {
        Def::Weight(w) => read_weight(model, &graph.weights[*w]).ok(),
        Def::Arg(name) => {
            let (_, tensor) = case.inputs().find(|i| i.0 == name)?;
            let to = oracle_type(graph.ty(id).dtype);
            Some(decode(&tensor.bytes(), tensor.dtype).into_iter().flat_map(|v| encode(v, to)).collect())
        }
        _ => None,
    };
    let results = execute(graph, &Block::ALL, data).map_err(|e| e.to_string())?;
    let found = graph.returns.iter().map(|(name, value)| {
        let ty = graph.ty(*value);
        (ty.dtype, ty.shape.clone(), decode(&results[name], oracle_type(ty.dtype)))
    });
    Ok(found.collect())
}

/// Results as imported, and after the passes.
fn run_compiler(case: &Case, bytes: &[u8]) -> Result<[Vec<Found>; 2], String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, bytes).map_err(|e| e.to_string())?;
    let model = Model::open(&path).map_err(|e| e.to_string())?;
    let shapes = case.inputs().map(|(n, t)| (n.to_owned(), t.shape.clone())).collect();
    let binding = Binding { shapes, ..Binding::default() };
    let imported = import(&model, &binding).map_err(|e| e.to_string())?;
    let passed = canonical(&model, &binding, &mut unobserved()).map_err(|e| e.to_string())?;
    Ok([run_graph(case, &model, &imported)?, run_graph(case, &model, &passed)?])
}

fn run_oracle(case: &Case, bytes: &[u8]) -> Result<Vec<Array>, String> {
    let oracle = Oracle::open_or_fetch().map_err(|e| format!("ONNX Runtime is needed for this test: {e}"))?;
    let options = SessionOptions { intra_threads: 1, ..SessionOptions::default() };
    let folder = std::env::temp_dir();
    let mut session = oracle.session_from_bytes(bytes, &folder, &options).map_err(|e| e.to_string())?;
    let inputs: Vec<(String, Array)> = case
        .inputs()
        .map(|(n, t)| (n.to_owned(), Array { dtype: t.dtype, shape: t.shape.clone(), bytes: t.bytes() }))
        .collect();
    let outputs = session.run(&inputs).map_err(|e| e.to_string())?;
    Ok(outputs.into_iter().map(|o| o.1).collect())
}

fn compare(case: &Case, found: &[Found], expected: &[Array]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} results instead of {}", found.len(), expected.len()));
    }
    for (i, ((dtype, shape, values), array)) in found.iter().zip(expected).enumerate() {
        if import::dtype(array.dtype.onnx()) != Some(*dtype) || *shape != array.shape {
            return Err(format!("result {i} is {dtype}{shape:?}, not {}{:?}", array.dtype, array.shape));
        }
        let wanted = decode(&array.bytes, array.dtype);
        let largest = wanted.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
        let tolerance = match array.dtype {
            F16 | BF16 => HALF,
            F32 | F64 => case.tolerance,
            _ => 0.0,
        };
        let far = |(a, b): (&f64, &f64)| {
            a != b && !(a.is_nan() && b.is_nan()) && ((a - b).abs() > tolerance * largest || !(a - b).is_finite())
        };
        if let Some(at) = values.iter().zip(&wanted).position(far) {
            return Err(format!(
                "result {i} is {:?} at {at}, not {:?}:\n  found    {values:?}\n  expected {wanted:?}",
                values[at], wanted[at]
            ));
        }
    }
    Ok(())
}

fn check(case: &Case) -> Result<(), String> {
    let bytes = case.bytes();
    let oracle = run_oracle(case, &bytes);
    let found = run_compiler(case, &bytes)?;
    if NO_KERNEL.contains(&case.name.as_str()) {
        return match oracle {
            Ok(_) => Err("ONNX Runtime runs it; take it off the list NO_KERNEL".into()),
            Err(_) => Ok(()),
        };
    }
    let expected = oracle?;
    compare(case, &found[0], &expected).map_err(|e| format!("as imported: {e}"))?;
    compare(case, &found[1], &expected).map_err(|e| format!("after the passes: {e}"))
}

fn run(case: &Case) -> Result<(), Failed> {
    let outcome = check(case);
    if KNOWN.contains(&case.name.as_str()) {
        return match outcome {
            Ok(()) => Err("it agrees now; take it off the list KNOWN".into()),
            Err(e) => {
                println!("known difference in {}: {e}", case.name);
                Ok(())
            }
        };
    }
    outcome.map_err(Failed::from)?;
    check(&case.clone().folded()).map_err(|e| Failed::from(format!("with constant operands: {e}")))
}

/// Every row of the import table has a case, names are unique, and the lists name cases.
fn covered(cases: &[Case]) -> Result<(), Failed> {
    let used: BTreeSet<&str> = cases.iter().flat_map(|c| &c.nodes).map(|n| n.op_type.as_str()).collect();
    let missing: Vec<&str> = IMPORTS.iter().map(|row| row.0).filter(|op| !used.contains(op)).collect();
    if !missing.is_empty() {
        return Err(format!("operators without a case: {}", missing.join(", ")).into());
    }
    let mut names = BTreeSet::new();
    if let Some(case) = cases.iter().find(|c| !names.insert(c.name.as_str())) {
        return Err(format!("two cases are called `{}`", case.name).into());
    }
    match NO_KERNEL.iter().chain(KNOWN).find(|n| !names.contains(*n)) {
        Some(name) => Err(format!("a list names `{name}`, which is no case").into()),
        None => Ok(()),
    }
}

fn main() {
    let args = Arguments::from_args();
    let mut cases = Vec::new();
    arithmetic::add(&mut cases);
    blocks::add(&mut cases);
    control::add(&mut cases);
    layers::add(&mut cases);
    positions::add(&mut cases);
    shapes::add(&mut cases);
    let mut trials: Vec<Trial> = cases
        .iter()
        .map(|case| {
            let case = case.clone();
            Trial::test(case.name.clone(), move || run(&case))
        })
        .collect();
    trials.push(Trial::test("every import has a case", move || covered(&cases)));
    libtest_mimic::run(&args, trials).exit();
}
