//! What an operator's import function sees of its ONNX node.

use super::Importer;
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, data_type};
use crate::error::{Error, Result};
use crate::ir::{Def, Graph, Payload, Type, ValueId};
use crate::ops::{Binary, Cast, Expand, Op, Reshape, Unary};
use sara_kernels::{DType, Element};
use std::collections::HashSet;
use std::sync::Arc;

/// Types of attributes by their numbers.
mod kind {
    pub(super) const FLOAT: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const STRING: i32 = 3;
    pub(super) const FLOATS: i32 = 6;
    pub(super) const INTS: i32 = 7;
}

/// An ONNX node under import. Attributes that nobody asks for are an error, so none is silently ignored.
pub struct OnnxNode<'n, 'm> {
    pub(super) importer: &'n mut Importer<'m>,
    pub(super) node: &'n NodeProto,
    pub(super) origin: Arc<str>,
    pub(super) asked: HashSet<String>,
}

impl<'n> OnnxNode<'n, '_> {
    /// Version of the operator set.
    pub fn opset(&self) -> i64 {
        self.importer.opset
    }

    /// ONNX operator.
    pub fn op_type(&self) -> &str {
        &self.node.op_type
    }

    /// The graph built so far.
    pub fn graph(&self) -> &Graph {
        &self.importer.graph
    }

    /// An error about this node.
    pub fn fail(&self, reason: impl Into<String>) -> Error {
        Error::Node { node: self.origin.to_string(), operator: self.node.op_type.clone(), reason: reason.into() }
    }

    /// Number of results that somebody may use.
    pub fn outputs(&self) -> usize {
        self.node.output.iter().rposition(|o| !o.is_empty()).map_or(0, |i| i + 1)
    }

    /// Operand `i`, or an error.
    pub fn input(&self, i: usize) -> Result<ValueId> {
        self.optional(i).ok_or_else(|| self.fail(format!("operand {i} is missing")))
    }

    /// Operand `i`, if it is there.
    pub fn optional(&self, i: usize) -> Option<ValueId> {
        let name = self.node.input.get(i).filter(|n| !n.is_empty())?;
        self.importer.scopes.get(name)
    }

    /// Number of operands, absent ones among them.
    pub fn inputs(&self) -> usize {
        self.node.input.len()
    }

    /// The results of a subgraph of this node whose inputs are these values.
    pub fn subgraph(&mut self, graph: &GraphProto, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        self.importer.subgraph(graph, inputs)
    }

    /// All operands, of which there must be at least one.
    pub fn all_inputs(&self) -> Result<Vec<ValueId>> {
        let inputs: Vec<ValueId> = (0..self.node.input.len()).map(|i| self.input(i)).collect::<Result<_>>()?;
        if inputs.is_empty() { Err(self.fail("has no operands")) } else { Ok(inputs) }
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> &Type {
        self.importer.graph.ty(value)
    }

    /// The shape that the model believes a value to have.
    pub fn logical_shape(&self, value: ValueId) -> Vec<usize> {
        if self.is_per_sample(value) { Vec::new() } else { self.ty(value).shape.clone() }
    }

    /// Whether a value was declared a scalar and carries one element for each sample instead.
    pub fn is_per_sample(&self, value: ValueId) -> bool {
        self.importer.per_sample.contains(&value)
    }

    pub(crate) fn attribute(&mut self, name: &str) -> Option<&'n AttributeProto> {
        self.asked.insert(name.to_owned());
        self.node.attribute.iter().find(|a| a.name == name)
    }

    /// An attribute that says that it is of this kind, or that says nothing, as in the oldest files.
    fn typed(&mut self, name: &str, kind: i32) -> Result<Option<&'n AttributeProto>> {
        match self.attribute(name) {
            Some(a) if a.r#type != 0 && a.r#type != kind => {
                Err(self.fail(format!("attribute `{name}` is of type {}, and must be of type {kind}", a.r#type)))
            }
            found => Ok(found),
        }
    }

    /// Whether an attribute is there.
    pub fn has(&self, name: &str) -> bool {
        self.node.attribute.iter().any(|a| a.name == name)
    }

    /// An integer attribute.
    pub fn int(&mut self, name: &str, default: i64) -> Result<i64> {
        Ok(self.typed(name, kind::INT)?.map_or(default, |a| a.i))
    }

    /// A real attribute.
    pub fn float(&mut self, name: &str, default: f64) -> Result<f64> {
        // The shortest decimal that gives the stored number is what the exporter meant.
        Ok(self.typed(name, kind::FLOAT)?.map_or(default, |a| a.f.to_string().parse().unwrap_or(f64::from(a.f))))
    }

    /// A text attribute.
    pub fn text(&mut self, name: &str, default: &str) -> Result<String> {
        match self.typed(name, kind::STRING)?.map(|a| a.s.clone()) {
            None => Ok(default.to_owned()),
            Some(s) => String::from_utf8(s.to_vec()).map_err(|_| self.fail(format!("attribute `{name}` is not text"))),
        }
    }

    /// A list of integers.
    pub fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.typed(name, kind::INTS)?.map(|a| a.ints.clone()))
    }

    /// A list of integers that must not be negative.
    pub fn sizes(&mut self, name: &str) -> Result<Option<Vec<usize>>> {
        let Some(values) = self.ints(name)? else { return Ok(None) };
        let sizes: Option<Vec<usize>> =
            values.iter().map(|v| usize::try_from(*v).ok().filter(|v| *v < 1 << 32)).collect();
        sizes.map(Some).ok_or_else(|| self.fail(format!("attribute `{name}` = {values:?} is not supported")))
    }

    /// A list of real numbers.
    pub fn floats(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.typed(name, kind::FLOATS)?.map(|a| a.floats.clone()))
    }

    /// A tensor attribute, as a constant or weight named after this node's result.
    pub fn tensor(&mut self, name: &str) -> Result<Option<ValueId>> {
        self.asked.insert(name.to_owned());
        let node = self.node;
        let Some(tensor) = node.attribute.iter().find(|a| a.name == name).and_then(|a| a.t.as_ref()) else {
            return Ok(None);
        };
        let label = node.output.first().cloned().unwrap_or_default();
        if tensor.name.is_empty() {
            // An error about the tensor then names it by its result.
            let named = TensorProto { name: label.clone(), ..tensor.clone() };
            return self.importer.tensor(&label, &named).map(Some);
        }
        self.importer.tensor(&label, tensor).map(Some)
    }

    /// Element type by its ONNX number. Half precision is computed in `f32`, narrow integers in `i64`.
    pub fn dtype(&self, number: i64) -> Result<DType> {
        super::dtype(number as i32).ok_or_else(|| {
            self.fail(format!("element type {} is not supported", super::proto::data_type::name(number as i32)))
        })
    }

    /// An axis, where negative numbers count from the end.
    pub fn axis_of(&self, axis: i64, rank: usize) -> Result<usize> {
        let absolute = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(absolute)
            .ok()
            .filter(|a| *a < rank)
            .ok_or_else(|| self.fail(format!("axis {axis} is out of range for rank {rank}")))
    }

    /// Axes that are an attribute before operator set `since` and operand `i` from there on.
    pub fn raw_axes(&mut self, i: usize, since: i64) -> Result<Option<Vec<i64>>> {
        if self.opset() < since { self.ints("axes") } else { self.optional_ints(i) }
    }

    /// The same as absolute axes of a tensor of `rank` dimensions.
    pub fn axes(&mut self, i: usize, since: i64, rank: usize) -> Result<Option<Vec<usize>>> {
        match self.raw_axes(i, since)? {
            None => Ok(None),
            Some(axes) => axes.into_iter().map(|a| self.axis_of(a, rank)).collect::<Result<_>>().map(Some),
        }
    }

    /// Operand `i` as constant integers.
    pub fn const_ints(&self, i: usize) -> Result<Vec<i64>> {
        self.optional_ints(i)?.ok_or_else(|| self.fail(format!("operand {i} is missing")))
    }

    /// Operand `i` as constant integers that must not be negative.
    pub fn const_sizes(&self, i: usize) -> Result<Vec<usize>> {
        let values = self.const_ints(i)?;
        let sizes: Option<Vec<usize>> =
            values.iter().map(|v| usize::try_from(*v).ok().filter(|v| *v < 1 << 32)).collect();
        sizes.ok_or_else(|| self.fail(format!("operand {i} = {values:?} is not a shape")))
    }

    /// Operand `i` as constant integers, if it is there.
    pub fn optional_ints(&self, i: usize) -> Result<Option<Vec<i64>>> {
        let Some(value) = self.optional(i) else { return Ok(None) };
        let found = self
            .importer
            .known::<i64>(value)?
            .or(self.importer.known::<i32>(value)?.map(|v| v.into_iter().map(i64::from).collect()));
        found.map(Some).ok_or_else(|| self.not_constant(i))
    }

    /// Operand `i` as constant real numbers, if it is there.
    pub fn optional_floats(&self, i: usize) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.optional(i) else { return Ok(None) };
        if self.ty(value).is_empty() {
            return Ok(Some(Vec::new()));
        }
        // As for attributes: what is meant is the shortest decimal that gives the stored number.
        let decimal = |v: f32| v.to_string().parse().unwrap_or(f64::from(v));
        let found = self
            .importer
            .known::<f64>(value)?
            .or(self.importer.known::<f32>(value)?.map(|v| v.into_iter().map(decimal).collect()));
        found.map(Some).ok_or_else(|| self.not_constant(i))
    }

    /// Operand `i` as a constant number of any type, if it is there.
    pub fn optional_scalar(&self, i: usize) -> Result<Option<f64>> {
        let Some(value) = self.optional(i) else { return Ok(None) };
        if self.ty(value).dtype.is_float() {
            Ok(self.optional_floats(i)?.and_then(|v| v.first().copied()))
        } else {
            Ok(self.optional_ints(i)?.and_then(|v| v.first().map(|v| *v as f64)))
        }
    }

    /// Operand `i` as a constant number of any type.
    pub fn const_scalar(&self, i: usize) -> Result<f64> {
        self.optional_scalar(i)?.ok_or_else(|| self.fail(format!("operand {i} is missing")))
    }

    fn not_constant(&self, i: usize) -> Error {
        let name = self.node.input.get(i).map_or("", String::as_str);
        self.fail(format!(
            "operand {i} (`{name}`) depends on the data, but must be known when compiling; shapes are bound with --dim NAME=SIZE"
        ))
    }

    /// Appends an operator and returns its first result.
    pub fn emit(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.emit_all(op, &inputs)?[0])
    }

    /// Appends an operator and returns its results. An operator of constants is computed at once.
    pub fn emit_all(&mut self, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> Result<Vec<ValueId>> {
        let op = op.into();
        let name = self.node.output.first().cloned().unwrap_or_default();
        let origin = self.origin.clone();
        let per_sample = self.stays_per_sample(&op, inputs)?;
        let outputs = self.importer.emit(op, inputs, &name, &origin)?;
        if per_sample {
            self.importer.per_sample.extend(&outputs);
        }
        Ok(outputs)
    }

    /// Whether the result of `op` is again a scalar to the model and one element for each sample here. Where the model's and our
    /// shapes would go apart it is an error, unless there is one sample, which is as good as a scalar.
    fn stays_per_sample(&self, op: &Op, inputs: &[Option<ValueId>]) -> Result<bool> {
        let Some(t) = inputs.iter().copied().flatten().find(|v| self.is_per_sample(*v)) else { return Ok(false) };
        let batch = self.ty(t).len();
        let others = || inputs.iter().copied().flatten().filter(|v| !self.is_per_sample(*v));
        let fits = match op {
            Op::Unary(_) | Op::Cast(_) => return Ok(true),
            Op::Binary(_) | Op::Select(_) if others().all(|v| self.ty(v).rank() == 0) => return Ok(true),
            // Vectors of one element become vectors of one element for each sample.
            Op::Binary(_) | Op::Select(_) => others().all(|v| self.ty(v).rank() <= 1 && self.ty(v).len() == 1),
            Op::Reshape(r) => r.shape.first() == Some(&batch) && r.shape[1..].iter().all(|d| *d == 1),
            Op::Expand(e) => e.shape == [batch],
            _ => false,
        };
        if fits || batch == 1 {
            return Ok(false);
        }
        let name = &self.importer.graph.value(t).name;
        Err(self.fail(format!(
            "scalar `{name}` is one number for each sample of the batch, which this node cannot take; export the model with a timestep of shape [batch], or bind a batch of 1"
        )))
    }

    /// A constant.
    pub fn add_const<T: Element>(&mut self, dtype: DType, shape: &[usize], values: &[T]) -> ValueId {
        let name = self.node.output.first().cloned().unwrap_or_default();
        self.importer.graph.add_value(&name, Type::new(dtype, shape), Def::Const(Payload::of(values)))
    }

    /// A constant table of positions.
    pub fn int_table(&mut self, shape: &[usize], values: &[i32]) -> ValueId {
        self.add_const(DType::I32, shape, values)
    }

    /// A constant table of numbers.
    pub fn float_table(&mut self, shape: &[usize], values: &[f32]) -> ValueId {
        self.add_const(DType::F32, shape, values)
    }

    /// A constant scalar of the type of `like`.
    pub fn scalar_like(&mut self, like: ValueId, value: f64) -> Result<ValueId> {
        let (dtype, wide) = (self.ty(like).dtype, self.add_const(DType::F64, &[], &[value]));
        self.cast(wide, dtype)
    }

    /// `x` with another shape of the same size.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.ty(x).shape == shape {
            return Ok(x);
        }
        self.emit(Reshape { shape: shape.to_vec() }, &[x])
    }

    /// A new value that is `x` with another shape of the same size.
    pub fn view(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        self.emit(Reshape { shape: shape.to_vec() }, &[x])
    }

    /// `x` repeated to `shape`.
    pub fn expand(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.ty(x).shape == shape {
            return Ok(x);
        }
        self.emit(Expand { shape: shape.to_vec() }, &[x])
    }

    /// `x` in another element type.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        if self.ty(x).dtype == to {
            return Ok(x);
        }
        self.emit(Cast { to }, &[x])
    }

    /// An elementwise function of two operands.
    pub fn binary(&mut self, op: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.emit(Binary { op: op.to_owned() }, &[a, b])
    }

    /// An elementwise function without parameters.
    pub fn unary(&mut self, op: &str, x: ValueId) -> Result<ValueId> {
        self.emit(Unary { op: op.to_owned(), alpha: 0.0, beta: 0.0 }, &[x])
    }

    /// The first attribute that the import did not ask for.
    pub(super) fn unasked(&self) -> Option<&str> {
        self.node.attribute.iter().map(|a| a.name.as_str()).find(|n| !self.asked.contains(*n) && !n.is_empty())
    }
}

/// Whether a tensor holds real numbers.
pub(super) fn is_float(tensor: &TensorProto) -> bool {
    matches!(tensor.data_type, data_type::FLOAT | data_type::FLOAT16 | data_type::BFLOAT16 | data_type::DOUBLE)
}
