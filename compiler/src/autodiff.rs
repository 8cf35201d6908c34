//! What an operator's gradient is written with.

use crate::error::Result;
use crate::ir::{Block, Graph, NodeId, Type, ValueId};
use crate::ops::{Binary, Expand, Op, Reduce, Reshape, Transpose, Unary};
use std::sync::Arc;

/// Context of [`crate::ops::Operator::grad`]: the node, the gradient of its result, and a way to append nodes.
pub struct Grad<'g> {
    graph: &'g mut Graph,
    node: NodeId,
    dy: ValueId,
    name: String,
    origin: Arc<str>,
}

impl<'g> Grad<'g> {
    /// The context for `node`, whose first result has the gradient `dy`. New values grow their names from `name`.
    pub fn new(graph: &'g mut Graph, node: NodeId, dy: ValueId, name: String) -> Grad<'g> {
        let origin = graph.node(node).origin.clone();
        Grad { graph, node, dy, name, origin }
    }

    /// Gradient of the loss with respect to the first result.
    pub fn dy(&self) -> ValueId {
        self.dy
    }

    /// Operand `i`, which must be present.
    pub fn input(&self, i: usize) -> ValueId {
        match self.try_input(i) {
            Some(value) => value,
            None => unreachable!("operand {i} of `{}` is absent", self.origin),
        }
    }

    /// Operand `i`.
    pub fn try_input(&self, i: usize) -> Option<ValueId> {
        self.graph.node(self.node).inputs.get(i).copied().flatten()
    }

    /// Result `i`.
    pub fn output(&self, i: usize) -> ValueId {
        self.graph.node(self.node).outputs[i]
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> Type {
        self.graph.ty(value).clone()
    }

    /// Appends an operator and returns its first result.
    pub fn emit(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.emit_all(op, &inputs)?[0])
    }

    /// Appends an operator and returns its results.
    pub fn emit_all(&mut self, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> Result<Vec<ValueId>> {
        self.graph.emit(Block::Backward, op.into(), inputs, &self.name, &self.origin)
    }

    /// A constant scalar of the type of `like`.
    pub fn scalar(&mut self, like: ValueId, value: f64) -> ValueId {
        let dtype = self.graph.ty(like).dtype;
        self.graph.add_scalar(dtype, value)
    }

    /// `a + b`, `a * b`, ... with broadcasting.
    pub fn binary(&mut self, op: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.emit(Binary { op: op.to_owned() }, &[a, b])
    }

    /// An elementwise function without parameters.
    pub fn unary(&mut self, op: &str, x: ValueId) -> Result<ValueId> {
        self.emit(Unary { op: op.to_owned(), alpha: 0.0, beta: 0.0 }, &[x])
    }

    /// `x` with another shape of the same size.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.graph.ty(x).shape == shape {
            return Ok(x);
        }
        self.emit(Reshape { shape: shape.to_vec() }, &[x])
    }

    /// `x` with its dimensions permuted.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId> {
        self.emit(Transpose { perm: perm.to_vec() }, &[x])
    }

    /// `x` repeated to a shape it broadcasts to.
    pub fn expand(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.graph.ty(x).shape == shape {
            return Ok(x);
        }
        self.emit(Expand { shape: shape.to_vec() }, &[x])
    }

    /// Sum over the dimensions along which `shape` was broadcast to the shape of `x`.
    pub fn unbroadcast(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        let from = self.graph.ty(x).shape.clone();
        if from == shape {
            return Ok(x);
        }
        let lead = from.len() - shape.len();
        let axes: Vec<usize> =
            (0..from.len()).filter(|&i| i < lead || (shape[i - lead] == 1 && from[i] != 1)).collect();
        let sum =
            if axes.is_empty() { x } else { self.emit(Reduce { op: "sum".to_owned(), axes, keepdims: false }, &[x])? };
        self.reshape(sum, shape)
    }
}
