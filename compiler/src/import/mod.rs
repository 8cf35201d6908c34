//! From an ONNX file to a graph: shapes are bound, shape arithmetic is computed on the way, weights stay in their files.

mod checked;
mod function;
mod known;
mod model;
mod node;
pub mod proto;
mod scan;
mod scope;
mod weights;

pub use checked::{checked, checked_proto};
pub use model::{Input, Location, Model, widen};
pub use node::OnnxNode;
pub use weights::{external_files, read_weight, stored_bytes, weights};

use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::ir::{Block, Def, Graph, Payload, Type, ValueId};
use crate::limits::{CONSTANT_BYTES, NODES};
use crate::ops::{IMPORTS, Op};
use proto::{FunctionProto, NodeProto, TensorProto, ValueInfoProto, data_type};
use sara_kernels::{DType, Element};
use sara_runtime::plan::Stored;
use scope::Scopes;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use weights::{new_weight, weight_paths};

/// What is bound at import.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// Sizes of named dimensions.
    pub dims: BTreeMap<String, usize>,
    /// Whole shapes of inputs, such as those of tensors at hand. They win over `dims`.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Size of dimensions that nothing binds; without it they are an error.
    pub open: Option<usize>,
}

/// Names of dimensions that are 1 unless they are bound.
const BATCH_NAMES: &[&str] = &["batch", "batch_size", "B", "N"];

/// Results larger than this many elements are not computed at import, unless they are no larger than their operands: a
/// constant that is repeated costs less to repeat in each step than to keep.
const FOLD_LIMIT: usize = 1 << 16;

/// Vectors longer than this are not searched for equal elements.
const UNIFORM_LIMIT: usize = 1 << 14;

/// Builds the graph of a model. Its returns are the model's outputs.
pub fn import(model: &Model, binding: &Binding) -> Result<Graph> {
    let name = model.path().file_stem().map_or("model".into(), |s| s.to_string_lossy().into_owned());
    let mut importer = Importer {
        model,
        graph: Graph::new(&name),
        opset: model.opset(),
        functions: &model.proto.functions,
        count: 0,
        depth: 0,
        unavailable: HashSet::new(),
        scopes: Scopes::default(),
        per_sample: HashSet::new(),
        weights: HashMap::new(),
        paths: weight_paths(model),
        named_dims: binding.dims.clone(),
    };
    importer.run(binding)?;
    Ok(importer.graph)
}

/// State of an import.
pub(crate) struct Importer<'m> {
    pub(crate) model: &'m Model,
    pub(crate) graph: Graph,
    pub(crate) opset: i64,
    functions: &'m [FunctionProto],
    /// Nodes so far, those of functions and of all rounds of loops among them.
    count: usize,
    /// How many functions and subgraphs are open.
    depth: usize,
    /// Names whose nodes are refused.
    unavailable: HashSet<String>,
    pub(crate) scopes: Scopes,
    /// Values that the model takes for scalars and that carry one element for each sample.
    pub(crate) per_sample: HashSet<ValueId>,
    /// The value of each weight by where it lies.
    weights: HashMap<(String, u64, Stored, Vec<usize>), ValueId>,
    paths: HashMap<String, String>,
    named_dims: BTreeMap<String, usize>,
}

impl Importer<'_> {
    fn run(&mut self, binding: &Binding) -> Result<()> {
        let model = self.model;
        let proto = model.graph();
        if !proto.sparse_initializer.is_empty() {
            return Err(Error::file(
                model.path(),
                "holds sparse initialisers, which are not supported; export dense ones",
            ));
        }
        let initialisers: HashSet<&str> = proto.initializer.iter().map(|t| t.name.as_str()).collect();
        for tensor in &proto.initializer {
            let value = self.tensor(&tensor.name, tensor)?;
            self.define(&tensor.name, value)?;
        }
        let inputs: Vec<&ValueInfoProto> =
            proto.input.iter().filter(|i| !initialisers.contains(i.name.as_str())).collect();
        self.bind_inputs(&inputs, binding)?;
        self.nodes(&proto.node)?;
        for output in &proto.output {
            let value = self
                .scopes
                .get(&output.name)
                .ok_or_else(|| Error::file(model.path(), format!("output `{}` is produced by no node", output.name)))?;
            self.graph.returns.push((output.name.clone(), value));
        }
        if self.graph.returns.is_empty() {
            return Err(Error::file(model.path(), "has no outputs"));
        }
        self.graph.remove_dead();
        Ok(())
    }

    fn bind_inputs(&mut self, inputs: &[&ValueInfoProto], binding: &Binding) -> Result<()> {
        let unknown: Vec<&str> =
            binding.shapes.keys().map(String::as_str).filter(|n| !inputs.iter().any(|i| i.name == *n)).collect();
        if !unknown.is_empty() {
            let known: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
            let (unknown, known) = (unknown.join("`, `"), known.join(", "));
            return Err(self.misfit(format!("the model has no input `{unknown}`; its inputs are {known}")));
        }
        // Whole shapes bind the named dimensions of all inputs.
        for input in inputs {
            if let Some(shape) = binding.shapes.get(&input.name) {
                for (dim, size) in dims(input).iter().zip(shape) {
                    if let Some(name) = dim.dim_param.as_ref().filter(|n| !n.is_empty()) {
                        self.named_dims.insert(name.clone(), *size);
                    }
                }
            }
        }
        let known: HashSet<&str> = inputs.iter().flat_map(|i| dims(i)).filter_map(|d| d.dim_param.as_deref()).collect();
        if let Some(name) = binding.dims.keys().find(|n| !known.contains(n.as_str())) {
            let mut names: Vec<&str> = known.into_iter().collect();
            names.sort_unstable();
            let names = if names.is_empty() { "all fixed".to_owned() } else { names.join(", ") };
            return Err(self.misfit(format!("the model has no dimension `{name}`; its dimensions are {names}")));
        }
        let mut open = Open::default();
        let mut bound = Vec::new();
        for input in inputs {
            bound.push(self.bind_shape(input, binding, &mut open));
        }
        if let Some(reason) = open.reason().filter(|_| binding.open.is_none()) {
            return Err(self.misfit(reason));
        }
        let batch = bound.iter().find(|s| s.len() >= 2).map_or(1, |s| s[0]);
        for (input, mut shape) in inputs.iter().zip(bound) {
            let elem = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).map_or(0, |t| t.elem_type);
            let dtype = dtype(elem).ok_or_else(|| {
                Error::file(
                    self.model.path(),
                    format!(
                        "input `{}` has element type {}, which is not supported",
                        input.name,
                        data_type::name(elem)
                    ),
                )
            })?;
            let single = shape.is_empty() || (shape == [1] && batch > 1 && fixed_or_alone(input));
            let given = binding.shapes.get(&input.name);
            let scalar = single
                && given.is_none_or(|g| *g == [batch])
                && !(shape.is_empty() && given.is_some_and(Vec::is_empty));
            let declared_scalar = shape.is_empty();
            if scalar {
                shape = vec![batch];
            }
            if let Some(given) = given.filter(|g| **g != shape) {
                let name = &input.name;
                return Err(self.misfit(format!("input `{name}` must have shape {shape:?}, not {given:?}")));
            }
            let value = self.graph.add_value(&input.name, Type { dtype, shape }, Def::Arg(input.name.clone()));
            if scalar && declared_scalar {
                self.per_sample.insert(value);
            }
            self.define(&input.name, value)?;
        }
        Ok(())
    }

    /// Gives a name of the file to a value.
    fn define(&mut self, name: &str, value: ValueId) -> Result<()> {
        if self.scopes.define(name, value) {
            return Ok(());
        }
        Err(Error::file(
            self.model.path(),
            format!("defines the value `{name}` twice; the file is damaged, export it again"),
        ))
    }

    /// An error about an option that does not fit the model.
    fn misfit(&self, reason: String) -> Error {
        Error::Option(format!("{}: {reason}", self.model.path().display()))
    }

    fn bind_shape(&self, input: &ValueInfoProto, binding: &Binding, open: &mut Open) -> Vec<usize> {
        let given = binding.shapes.get(&input.name).filter(|g| g.len() == dims(input).len());
        dims(input)
            .iter()
            .enumerate()
            .map(|(i, dim)| match (dim.dim_value, dim.dim_param.as_deref()) {
                (Some(size), _) if size > 0 => size as usize,
                (_, Some(name)) if !name.is_empty() => match self.named_dims.get(name) {
                    Some(size) => *size,
                    None if BATCH_NAMES.contains(&name) => 1,
                    // A lone dimension of one input carries one element for each sample.
                    None if dims(input).len() == 1 => 1,
                    None => {
                        open.named.insert(name.to_owned());
                        binding.open.unwrap_or(1)
                    }
                },
                _ => given.map_or_else(
                    || {
                        open.unnamed.insert(format!("`{}`", input.name));
                        binding.open.unwrap_or(1)
                    },
                    |g| g[i],
                ),
            })
            .collect()
    }

    /// An initialiser or a tensor attribute: real numbers stay in the file, the rest becomes constants.
    pub(crate) fn tensor(&mut self, name: &str, tensor: &TensorProto) -> Result<ValueId> {
        let shape = self.model.shape(tensor)?;
        let len: usize = shape.iter().product();
        if node::is_float(tensor)
            && len >= 2
            && let (Some(stored), Some(location)) = (Model::stored(tensor), self.model.locate(tensor)?)
        {
            let value = self.weight(name, &shape, stored, location);
            if shape.len() == 1 && len <= UNIFORM_LIMIT {
                self.note_uniform(value)?;
            }
            return Ok(value);
        }
        let (dtype, bytes) = self.model.elements(tensor)?;
        Ok(self.graph.add_value(name, Type { dtype, shape }, Def::Const(Payload::Known(bytes.into()))))
    }

    /// Exporters write normalisations with scale 1 and bias 0 where the model has none; passes want to know.
    fn note_uniform(&mut self, value: ValueId) -> Result<()> {
        let Def::Weight(index) = self.graph.value(value).def else { return Ok(()) };
        if let Some(elements) = self.known::<f32>(value)?
            && let Some(first) = elements.first().filter(|v| **v == 0.0 || **v == 1.0)
            && elements.iter().all(|v| v == first)
        {
            self.graph.uniform.insert(index, f64::from(*first));
        }
        Ok(())
    }

    fn weight(&mut self, name: &str, shape: &[usize], stored: Stored, location: Location) -> ValueId {
        // Tensors that are the same bytes are one weight, or training one would be lost on the other.
        let place = (location.file.clone(), location.offset, stored, shape.to_vec());
        if let Some(value) = self.weights.get(&place) {
            return *value;
        }
        let index = self.graph.weights.len();
        self.graph.weights.push(new_weight(&self.paths, name, shape, stored, location));
        let value = self.graph.add_value(name, Type::new(stored.loaded(), shape), Def::Weight(index));
        self.weights.insert(place, value);
        value
    }

    /// Elements of a constant, or of a weight or what is made of weights alone where a constant is needed.
    pub(crate) fn known<T: Element>(&self, value: ValueId) -> Result<Option<Vec<T>>> {
        let v = self.graph.value(value);
        if !T::views(v.ty.dtype) {
            return Ok(None);
        }
        let bytes = match v.def {
            Def::Weight(index) => Some(read_weight(self.model, &self.graph.weights[index])?),
            Def::Node(..) => self.computed(value)?,
            _ => return Ok(self.graph.constant(value)),
        };
        Ok(bytes.map(|bytes| bytemuck::pod_collect_to_vec(&bytes)))
    }

    pub(crate) fn emit(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        name: &str,
        origin: &Arc<str>,
    ) -> Result<Vec<ValueId>> {
        let constant = |v: &ValueId| matches!(self.graph.value(*v).def, Def::Const(Payload::Known(_)));
        if !inputs.iter().flatten().all(constant) {
            return self.graph.emit(Block::Forward, op, inputs, name, origin);
        }
        let from: usize = inputs.iter().flatten().map(|v| self.graph.ty(*v).len()).sum();
        let (node, outputs) = self.graph.create(op, inputs, name, origin)?;
        let to: usize = outputs.iter().map(|v| self.graph.ty(*v).len()).sum();
        if to > FOLD_LIMIT.max(from) {
            let mut order = self.graph.block(Block::Forward).to_vec();
            order.push(node);
            self.graph.set_block(Block::Forward, order);
            return Ok(outputs);
        }
        let results = evaluate(&self.graph, node)?;
        Ok(outputs
            .iter()
            .zip(results)
            .map(|(v, bytes)| {
                let ty = self.graph.ty(*v).clone();
                self.graph.add_value(name, ty, Def::Const(Payload::Known(bytes.into())))
            })
            .collect())
    }

    /// Imports nodes in the innermost scope.
    fn nodes(&mut self, nodes: &[NodeProto]) -> Result<()> {
        let mut refused = Refused::default();
        for node in nodes {
            self.import_node(node, &mut refused)?;
        }
        refused.finish(self.model.path())
    }

    fn import_node(&mut self, node: &NodeProto, refused: &mut Refused) -> Result<()> {
        self.count += 1;
        if self.count > NODES {
            let reason = format!("has more than {NODES} nodes when its functions and loops are unrolled");
            return Err(Error::file(self.model.path(), reason));
        }
        let default = node.domain.is_empty() || node.domain == "ai.onnx";
        let found = IMPORTS.iter().find(|row| default && row.0 == node.op_type);
        let function = self.function(node);
        let label = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
        // On one line, as the text form ends with it.
        let label = label.map_or(String::new(), |l| l.trim().replace(char::is_control, "_"));
        if found.is_none() && function.is_none() {
            refused.operator(node, &label);
            self.unavailable.extend(node.output.iter().cloned());
            return Ok(());
        }
        if let Some(missing) = node.input.iter().find(|i| !i.is_empty() && self.scopes.get(i).is_none()) {
            if self.unavailable.contains(missing) {
                self.unavailable.extend(node.output.iter().cloned());
                return Ok(());
            }
            let reason = format!(
                "node `{label}` ({}) reads `{missing}`, which nothing before it produces; the file is damaged or not sorted",
                node.op_type
            );
            return Err(Error::file(self.model.path(), reason));
        }
        let results = match (function, found) {
            (Some(function), _) => self.inline(function, node),
            (None, Some((_, import))) => {
                let mut n = OnnxNode { importer: self, node, origin: label.as_str().into(), asked: HashSet::new() };
                let results = import(&mut n);
                match n.unasked() {
                    Some(name) if results.is_ok() => Err(n.fail(format!("attribute `{name}` is not supported"))),
                    _ => results,
                }
            }
            (None, None) => Ok(Vec::new()),
        };
        if self.graph.constant_bytes() > CONSTANT_BYTES {
            let reason = format!(
                "computes constants of more than {CONSTANT_BYTES} bytes, up to node `{label}`; no model of this kind does"
            );
            return Err(Error::file(self.model.path(), reason));
        }
        let results = match results {
            Ok(results) => results,
            Err(error) => {
                refused.add(error)?;
                self.unavailable.extend(node.output.iter().cloned());
                return Ok(());
            }
        };
        for (name, value) in node.output.iter().zip(results).filter(|o| !o.0.is_empty()) {
            self.define(name, value)?;
        }
        if let Some(name) = node.output.iter().find(|o| !o.is_empty() && self.scopes.get(o).is_none()) {
            refused.reasons.push(format!("node `{label}` ({}): result `{name}` is not supported", node.op_type));
            self.unavailable.extend(node.output.iter().cloned());
        }
        Ok(())
    }
}

/// What stands in the way of an import, collected so that all of it can be said at once.
#[derive(Default)]
struct Refused {
    operators: BTreeMap<String, Vec<String>>,
    reasons: Vec<String>,
}

impl Refused {
    /// Keeps the error of a node, unless it is one of the file as a whole.
    fn add(&mut self, error: Error) -> Result<()> {
        let reasons = match error {
            Error::Node { .. } | Error::Option(_) => vec![error.to_string()],
            Error::Unsupported { reasons, .. } => reasons,
            other => return Err(other),
        };
        for reason in reasons {
            // A function that is called often is refused once.
            if !self.reasons.contains(&reason) {
                self.reasons.push(reason);
            }
        }
        Ok(())
    }

    fn operator(&mut self, node: &NodeProto, label: &str) {
        let domain = if node.domain.is_empty() { String::new() } else { format!("{}::", node.domain) };
        self.operators.entry(format!("{domain}{}", node.op_type)).or_default().push(label.to_owned());
    }

    fn finish(self, path: &Path) -> Result<()> {
        let mut reasons: Vec<String> = self
            .operators
            .into_iter()
            .map(|(operator, nodes)| {
                let shown = nodes.iter().take(3).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
                let more = if nodes.len() > 3 { format!(" and {} more", nodes.len() - 3) } else { String::new() };
                let advice = if operator.contains("::") {
                    "; train the export before it is optimised, then run the optimiser on the result"
                } else {
                    ""
                };
                format!("operator {operator} is not supported: {shown}{more}{advice}")
            })
            .collect();
        reasons.extend(self.reasons);
        if reasons.is_empty() { Ok(()) } else { Err(Error::Unsupported { path: path.to_owned(), reasons }) }
    }
}

/// Dimensions that nobody bound.
#[derive(Default)]
struct Open {
    named: BTreeSet<String>,
    /// Inputs that have dimensions without names.
    unnamed: BTreeSet<String>,
}

impl Open {
    fn reason(self) -> Option<String> {
        let list = |items: BTreeSet<String>| items.into_iter().collect::<Vec<_>>().join(", ");
        let named = (!self.named.is_empty())
            .then(|| format!("these dimensions are open; bind each with --dim NAME=SIZE: {}", list(self.named)));
        let unnamed = (!self.unnamed.is_empty()).then(|| {
            let inputs = list(self.unnamed);
            format!(
                "open dimensions of these inputs have no names to bind; export the model with names for them: {inputs}"
            )
        });
        let reasons: Vec<String> = named.into_iter().chain(unnamed).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

fn dims(input: &ValueInfoProto) -> &[proto::DimensionProto] {
    input
        .r#type
        .as_ref()
        .and_then(|t| t.tensor_type.as_ref())
        .and_then(|t| t.shape.as_ref())
        .map_or(&[], |s| s.dim.as_slice())
}

/// Whether an input of one element was declared so, or by a dimension of its own that nobody bound.
fn fixed_or_alone(input: &ValueInfoProto) -> bool {
    dims(input).first().is_some_and(|d| d.dim_value == Some(1) || d.dim_param.is_some())
}

/// Element type in which values of an ONNX type are computed.
pub fn dtype(number: i32) -> Option<DType> {
    Some(match number {
        data_type::FLOAT | data_type::FLOAT16 | data_type::BFLOAT16 => DType::F32,
        data_type::DOUBLE => DType::F64,
        data_type::INT64 => DType::I64,
        data_type::INT32 => DType::I32,
        data_type::INT16 => DType::I16,
        data_type::INT8 => DType::I8,
        data_type::UINT64 => DType::U64,
        data_type::UINT16 => DType::U16,
        data_type::UINT32 => DType::U32,
        data_type::UINT8 => DType::U8,
        data_type::BOOL => DType::Bool,
        _ => return None,
    })
}
