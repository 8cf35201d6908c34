//! What becomes of a case: it passes, is refused for a reason, is computed wrongly, or panics.

#![allow(dead_code, reason = "each test uses a part")]

use super::case::{Case, array};
use super::common::{bytes, decode, encode, oracle_type};
use super::gradient::{self, Slope};
use onnx_protobuf::ModelProto;
use sara_compiler::compile::{canonical, unobserved};
use sara_compiler::evaluate::execute;
use sara_compiler::import::{Binding, Model, dtype, import, read_weight};
use sara_compiler::ir::verify::verify;
use sara_compiler::ir::{Block, Def, Graph, ValueId};
use sara_kernels::DType;
use sara_runtime::oracle::{Array, OracleType};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The outcome of a case.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Right with its operands as inputs and as initialisers.
    Pass(Slope),
    /// Right as initialisers; as inputs it is refused.
    Constant(Slope),
    /// Refused with a reason.
    Refused(String),
    /// Computed, but not what is expected; or a gradient that is no slope.
    Wrong(String),
    /// The program panicked.
    Panic(String),
}

impl Outcome {
    /// Whether this must never be.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Outcome::Wrong(_) | Outcome::Panic(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Pass(slope) => write!(f, "pass{slope}"),
            Outcome::Constant(slope) => write!(f, "pass, constant{slope}"),
            Outcome::Refused(why) => write!(f, "refused, {why}"),
            Outcome::Wrong(why) => write!(f, "WRONG, {why}"),
            Outcome::Panic(why) => write!(f, "PANIC, {why}"),
        }
    }
}

/// Why a case is not right.
enum Miss {
    Refused(String),
    Wrong(String),
}

/// Runs a case.
pub(crate) fn of(case: &Case) -> Outcome {
    let all = catch_unwind(AssertUnwindSafe(|| {
        let every: BTreeSet<String> = case.inputs.iter().filter(|i| i.1.is_some()).map(|i| i.0.clone()).collect();
        let constant = attempt(case, &every);
        if let Err(Miss::Wrong(why)) = constant {
            return Outcome::Wrong(format!("with constant operands: {why}"));
        }
        match (attempt(case, &BTreeSet::new()), constant) {
            (Err(Miss::Wrong(why)), _) => Outcome::Wrong(why),
            (Ok(()), Err(Miss::Refused(why))) => {
                Outcome::Wrong(format!("passes, but not with constant operands: {why}"))
            }
            (Err(Miss::Refused(_)), Err(Miss::Refused(why))) => Outcome::Refused(why),
            (found, _) => match gradient::check(case) {
                Err(why) => Outcome::Wrong(why),
                Ok(slope) if found.is_ok() => Outcome::Pass(slope),
                Ok(slope) => Outcome::Constant(slope),
            },
        }
    }));
    all.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Outcome::Panic(text.unwrap_or_default().replace('\n', " "))
    })
}

/// The model with these inputs as initialisers, and the values of the others.
pub(crate) fn split(case: &Case, constant: &BTreeSet<String>) -> (ModelProto, HashMap<String, Array>) {
    let mut model = case.model.clone();
    let mut data = HashMap::new();
    for (name, tensor) in &case.inputs {
        let Some(tensor) = tensor else { continue };
        if constant.contains(name) {
            let mut tensor = tensor.clone();
            tensor.name = name.clone();
            model.graph.mut_or_insert_default().initializer.push(tensor);
        } else if let Some(array) = array(tensor) {
            data.insert(name.clone(), array);
        }
    }
    model.graph.mut_or_insert_default().input.retain(|i| !constant.contains(&i.name));
    (model, data)
}

/// Opens a model that lies nowhere, with its inputs' shapes bound to those of the data.
pub(crate) fn open(model: &ModelProto, data: &HashMap<String, Array>) -> Result<(Model, Binding), String> {
    let model = Model::from_bytes(Path::new("model.onnx"), bytes(model).into()).map_err(|e| clean(&e.to_string()))?;
    let shapes = data.iter().map(|(n, a)| (n.clone(), a.shape.clone())).collect();
    Ok((model, Binding { shapes, ..Binding::default() }))
}

/// The same for a model that lies in a file.
pub(crate) fn open_at(path: &Path, data: &HashMap<String, Array>) -> Result<(Model, Binding), String> {
    let model = Model::open(path).map_err(|e| clean(&e.to_string()))?;
    let shapes = data.iter().map(|(n, a)| (n.clone(), a.shape.clone())).collect();
    Ok((model, Binding { shapes, ..Binding::default() }))
}

/// Compares what a graph computes with what the case expects.
pub(crate) fn check(case: &Case, model: &Model, graph: &Graph, data: &HashMap<String, Array>) -> Result<(), String> {
    verify(graph, "test").map_err(|e| e.to_string())?;
    let results = execute_graph(model, graph, data)?;
    let typed = |(name, v): &(String, ValueId)| {
        let ty = graph.ty(*v);
        (ty.dtype, ty.shape.clone(), results[name].clone())
    };
    compare(case, &graph.returns.iter().map(typed).collect::<Vec<_>>())
}

/// What a graph computes, by the names of its results.
pub(crate) fn execute_graph(
    model: &Model,
    graph: &Graph,
    data: &HashMap<String, Array>,
) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let values = |id| match &graph.value(id).def {
        Def::Weight(w) => read_weight(model, &graph.weights[*w]).ok(),
        Def::Arg(name) => data.get(name).map(|a| convert(a, graph.ty(id).dtype)),
        _ => None,
    };
    execute(graph, &Block::ALL, values).map_err(|e| e.to_string())
}

fn attempt(case: &Case, constant: &BTreeSet<String>) -> Result<(), Miss> {
    let (proto, data) = split(case, constant);
    let (model, binding) = open(&proto, &data).map_err(Miss::Refused)?;
    let refused = |e: sara_compiler::Error| Miss::Refused(clean(&e.to_string()));
    let imported = import(&model, &binding).map_err(refused)?;
    check(case, &model, &imported, &data).map_err(|e| Miss::Wrong(format!("as imported: {e}")))?;
    let passed = canonical(&model, &binding, &mut unobserved()).map_err(|e| Miss::Wrong(clean(&e.to_string())))?;
    check(case, &model, &passed, &data).map_err(|e| Miss::Wrong(format!("after the passes: {e}")))
}

/// On one line and without the name of the file.
pub(crate) fn clean(error: &str) -> String {
    let lines: Vec<&str> = error.lines().map(|l| l.trim().trim_start_matches("- ")).filter(|l| !l.is_empty()).collect();
    lines.join("; ").replace("model.onnx: ", "")
}

type Found = (DType, Vec<usize>, Vec<u8>);

/// The elements in the type in which they are computed.
pub(crate) fn convert(array: &Array, to: DType) -> Vec<u8> {
    if dtype(array.dtype.onnx()) == Some(to) && array.dtype.size() == to.size() {
        return array.bytes.clone();
    }
    decode(&array.bytes, array.dtype).into_iter().flat_map(|v| encode(v, oracle_type(to))).collect()
}

fn compare(case: &Case, found: &[Found]) -> Result<(), String> {
    if found.len() != case.outputs.len() {
        return Err(format!("{} results instead of {}", found.len(), case.outputs.len()));
    }
    for (i, ((ty, shape, bytes), expected)) in found.iter().zip(&case.outputs).enumerate() {
        let Some(expected) = expected else { return Err(format!("result {i} is no array")) };
        if dtype(expected.dtype.onnx()) != Some(*ty) || *shape != expected.shape {
            return Err(format!("result {i} is {ty}{shape:?}, not {}{:?}", expected.dtype, expected.shape));
        }
        // Two steps of a half-precision type, to which the expected values are rounded after each node.
        let half = match expected.dtype {
            OracleType::F16 => 2f64.powi(-9),
            OracleType::BF16 => 2f64.powi(-6),
            _ => 0.0,
        };
        let rtol = case.rtol.max(half);
        let (found, wanted) = (decode(bytes, oracle_type(*ty)), decode(&expected.bytes, expected.dtype));
        let far = |(a, b): (&f64, &f64)| {
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= case.atol + rtol * b.abs();
            !same
        };
        if let Some(at) = found.iter().zip(&wanted).position(far) {
            let (a, b) = (found[at], wanted[at]);
            return Err(format!("result {i} of type {} is {a} at {at}, not {b}", expected.dtype));
        }
    }
    Ok(())
}
