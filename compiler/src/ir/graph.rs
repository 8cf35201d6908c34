//! The graph: tables of values and nodes, and three blocks that list the nodes in program order.

use super::types::{Payload, Type};
use crate::error::Result;
use crate::limits::DIMENSIONS;
use crate::limits::ELEMENTS;
use crate::ops::Op;
use sara_kernels::{DType, Element};
use sara_runtime::plan::Weight;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Index of a [`Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of a [`Node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A tensor.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique name, printed after `%`.
    pub name: String,
    /// Type.
    pub ty: Type,
    /// Where it comes from.
    pub def: Def,
}

/// What defines a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Def {
    /// An input of the graph, with its ONNX name.
    Arg(String),
    /// An initialiser that stays in the model's files: index into [`Graph::weights`].
    Weight(usize),
    /// The bytes of the weight as they lie in its file.
    File(ValueId),
    /// A constant.
    Const(Payload),
    /// Flat positions of the trained entries of the weight.
    Index(ValueId, Payload),
    /// Values of the trained entries at the index.
    Param(ValueId),
    /// Training state of the param.
    State(State, ValueId),
    /// Hyper-parameters of the step.
    Hyper,
    /// An output of a node.
    Node(NodeId, usize),
}

/// Training state that belongs to a param.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accumulated gradient.
    Gradient,
    /// First Adam moment.
    Moment1,
    /// Second Adam moment.
    Moment2,
    /// Largest magnitude of each block of first moments that are stored in a byte each.
    Absmax1,
    /// Largest magnitude of each block of second moments.
    Absmax2,
}

/// The application of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator.
    pub op: Op,
    /// Operands; `None` where an optional one is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// Results.
    pub outputs: Vec<ValueId>,
    /// Name of the ONNX node it comes from; empty if there is none.
    pub origin: Arc<str>,
    /// Whether it computes a second time, in the backward, what the forward does not keep.
    pub again: bool,
}

/// A block of a graph. Program order runs through them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// From inputs to loss.
    Forward,
    /// From loss to gradients.
    Backward,
    /// From gradients to new weights.
    Update,
}

impl Block {
    /// The blocks in order.
    pub const ALL: [Block; 3] = [Block::Forward, Block::Backward, Block::Update];

    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Block::Forward => "forward",
            Block::Backward => "backward",
            Block::Update => "update",
        }
    }
}

/// How far a graph has come; later stages promise more (see [`crate::ir::verify`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// As imported: bound shapes, folded constants.
    Imported,
    /// Composite patterns are single operators.
    Canonical,
    /// Trained entries are chosen.
    Sparse,
    /// The backward block is there.
    Differentiated,
    /// Gradients of sparse weights are masked products.
    Fused,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 5] = [Stage::Imported, Stage::Canonical, Stage::Sparse, Stage::Differentiated, Stage::Fused];

    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Imported => "imported",
            Stage::Canonical => "canonical",
            Stage::Sparse => "sparse",
            Stage::Differentiated => "differentiated",
            Stage::Fused => "fused",
        }
    }
}

/// A program in static single assignment form.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Name.
    pub name: String,
    /// How far it has come.
    pub stage: Stage,
    /// Where the weights lie.
    pub weights: Vec<Weight>,
    /// Weights, by index, all elements of which are this number.
    pub uniform: HashMap<usize, f64>,
    /// Results: the name under which each leaves the program, and the value.
    pub returns: Vec<(String, ValueId)>,
    values: Vec<Value>,
    nodes: Vec<Node>,
    order: [Vec<NodeId>; 3],
    names: HashSet<String>,
    constant_bytes: usize,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph {
            name: name.to_owned(),
            stage: Stage::Imported,
            weights: Vec::new(),
            uniform: HashMap::new(),
            returns: Vec::new(),
            values: Vec::new(),
            nodes: Vec::new(),
            order: [Vec::new(), Vec::new(), Vec::new()],
            names: HashSet::new(),
            constant_bytes: 0,
        }
    }

    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The type of `id`.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.value(id).ty
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// All values, also those no longer used.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// Nodes of a block in program order.
    pub fn block(&self, block: Block) -> &[NodeId] {
        &self.order[block as usize]
    }

    /// Nodes of all blocks in program order.
    pub fn program(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.order.iter().flatten().copied()
    }

    /// The node that produces `value`, if one does.
    pub fn producer(&self, value: ValueId) -> Option<&Node> {
        match self.value(value).def {
            Def::Node(node, _) => Some(self.node(node)),
            _ => None,
        }
    }

    /// Elements of a constant, if `value` is one with known bytes of this type.
    pub fn constant<T: Element>(&self, value: ValueId) -> Option<Vec<T>> {
        let v = self.value(value);
        match &v.def {
            Def::Const(payload) if T::views(v.ty.dtype) => payload.elements(),
            _ => None,
        }
    }

    /// The one element of a float constant of one element.
    pub fn scalar(&self, value: ValueId) -> Option<f64> {
        let ty = self.ty(value);
        if ty.len() != 1 {
            return None;
        }
        match ty.dtype {
            DType::F32 => self.constant::<f32>(value).map(|v| f64::from(v[0])),
            DType::F64 => self.constant::<f64>(value).map(|v| v[0]),
            DType::I64 => self.constant::<i64>(value).map(|v| v[0] as f64),
            _ => None,
        }
    }

    /// The number that all elements of a constant or weight are, if they are known to be one.
    pub fn uniform_value(&self, value: ValueId) -> Option<f64> {
        match self.value(value).def {
            Def::Weight(index) => self.uniform.get(&index).copied(),
            Def::Const(_) => {
                let all: Vec<f32> = self.constant(value)?;
                let first = *all.first()?;
                all.iter().all(|v| *v == first).then_some(f64::from(first))
            }
            _ => None,
        }
    }

    /// Whether a weight is among what makes `value`: then it may train.
    pub fn depends_on_weight(&self, value: ValueId) -> bool {
        let mut stack = vec![value];
        let mut seen = HashSet::new();
        while let Some(v) = stack.pop() {
            if matches!(self.value(v).def, Def::Weight(_)) {
                return true;
            }
            if let Some(node) = self.producer(v).filter(|_| seen.insert(v)) {
                stack.extend(node.inputs.iter().flatten());
            }
        }
        false
    }

    /// How often each value is used by nodes and returns.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.values.len()];
        for id in self.program() {
            for input in self.node(id).inputs.iter().flatten() {
                counts[input.0 as usize] += 1;
            }
        }
        for (_, value) in &self.returns {
            counts[value.0 as usize] += 1;
        }
        counts
    }

    /// The nodes that use each value, in program order.
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.values.len()];
        for id in self.program() {
            for input in self.node(id).inputs.iter().flatten() {
                users[input.0 as usize].push(id);
            }
        }
        users
    }

    /// Bytes of all constants that were ever added.
    pub fn constant_bytes(&self) -> usize {
        self.constant_bytes
    }

    /// Adds a value that no node defines. The name is made unique and free of blanks.
    pub fn add_value(&mut self, name: &str, ty: Type, def: Def) -> ValueId {
        let name = self.unique(name);
        if matches!(def, Def::Const(_)) {
            self.constant_bytes = self.constant_bytes.saturating_add(ty.bytes());
        }
        self.values.push(Value { name, ty, def });
        ValueId(self.values.len() as u32 - 1)
    }

    /// Adds a constant.
    pub fn add_const<T: Element>(&mut self, name: &str, dtype: DType, shape: &[usize], values: &[T]) -> ValueId {
        debug_assert!(T::views(dtype));
        self.add_value(name, Type::new(dtype, shape), Def::Const(Payload::of(values)))
    }

    /// Adds a float constant of one element and rank 0.
    pub fn add_scalar(&mut self, dtype: DType, value: f64) -> ValueId {
        match dtype {
            DType::F64 => self.add_const("c", dtype, &[], &[value]),
            _ => self.add_const("c", DType::F32, &[], &[value as f32]),
        }
    }

    /// Appends a node to a block; infers the types of its results. Names of the results grow from `name`.
    pub fn emit(
        &mut self,
        block: Block,
        op: Op,
        inputs: &[Option<ValueId>],
        name: &str,
        origin: &Arc<str>,
    ) -> Result<Vec<ValueId>> {
        let outputs = self.create(op, inputs, name, origin)?.1;
        let id = NodeId(self.nodes.len() as u32 - 1);
        self.order[block as usize].push(id);
        Ok(outputs)
    }

    /// Makes a node that is in no block yet.
    pub fn create(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        name: &str,
        origin: &Arc<str>,
    ) -> Result<(NodeId, Vec<ValueId>)> {
        let types: Vec<Option<&Type>> = inputs.iter().map(|i| i.map(|v| self.ty(v))).collect();
        let results = op.infer(&types).map_err(|reason| crate::Error::Node {
            node: origin.to_string(),
            operator: op.name().to_owned(),
            reason: format!("{reason} (operands: {})", display_types(&types)),
        })?;
        if let Some(ty) = results.iter().find(|ty| ty.len() >= ELEMENTS) {
            return Err(crate::Error::Node {
                node: origin.to_string(),
                operator: op.name().to_owned(),
                reason: format!("a result of {:?} is larger than any memory", ty.shape),
            });
        }
        if let Some(ty) = types.iter().flatten().copied().chain(&results).find(|ty| ty.rank() > DIMENSIONS) {
            return Err(crate::Error::Node {
                node: origin.to_string(),
                operator: op.name().to_owned(),
                reason: format!("works on {} dimensions; {DIMENSIONS} are the most", ty.rank()),
            });
        }
        let id = NodeId(self.nodes.len() as u32);
        let outputs = results
            .into_iter()
            .enumerate()
            .map(|(slot, ty)| self.add_value(name, ty, Def::Node(id, slot)))
            .collect::<Vec<_>>();
        let (inputs, origin) = (inputs.to_vec(), origin.clone());
        self.nodes.push(Node { op, inputs, outputs: outputs.clone(), origin, again: false });
        Ok((id, outputs))
    }

    /// Says that a node computes something a second time.
    pub fn mark_again(&mut self, id: NodeId) {
        self.nodes[id.0 as usize].again = true;
    }

    /// Adds a node whose results exist already (the parser's way).
    pub(super) fn push_raw(&mut self, block: Block, node: Node) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        for (slot, output) in node.outputs.iter().enumerate() {
            self.values[output.0 as usize].def = Def::Node(id, slot);
        }
        self.nodes.push(node);
        self.order[block as usize].push(id);
        id
    }

    /// Changes the element type of a value.
    pub fn set_dtype(&mut self, value: ValueId, dtype: DType) {
        self.values[value.0 as usize].ty.dtype = dtype;
    }

    /// The operator of a node, to change its attributes.
    pub fn op_mut(&mut self, node: NodeId) -> &mut Op {
        &mut self.nodes[node.0 as usize].op
    }

    /// Makes an optional operand absent.
    pub fn clear_input(&mut self, node: NodeId, slot: usize) {
        self.nodes[node.0 as usize].inputs[slot] = None;
    }

    /// Replaces the order of a block. Nodes that are left out cease to exist.
    pub fn set_block(&mut self, block: Block, order: Vec<NodeId>) {
        self.order[block as usize] = order;
    }

    /// Makes operand `slot` of `node` be `value`.
    pub fn set_input(&mut self, node: NodeId, slot: usize, value: ValueId) {
        self.nodes[node.0 as usize].inputs[slot] = Some(value);
    }

    /// Replaces every operand and return by what `map` gives for it.
    pub fn map_uses(&mut self, map: impl Fn(ValueId) -> ValueId) {
        for node in &mut self.nodes {
            for input in node.inputs.iter_mut().flatten() {
                *input = map(*input);
            }
        }
        for (_, value) in &mut self.returns {
            *value = map(*value);
        }
    }

    /// Removes nodes whose results nobody needs. Nodes without results act on state and stay.
    pub fn remove_dead(&mut self) {
        let mut live = vec![false; self.values.len()];
        for (_, value) in &self.returns {
            live[value.0 as usize] = true;
        }
        for block in Block::ALL.into_iter().rev() {
            let mut kept = Vec::new();
            for &id in self.order[block as usize].iter().rev() {
                let node = &self.nodes[id.0 as usize];
                if node.outputs.is_empty() || node.outputs.iter().any(|o| live[o.0 as usize]) {
                    for input in node.inputs.iter().flatten() {
                        live[input.0 as usize] = true;
                    }
                    kept.push(id);
                }
            }
            kept.reverse();
            self.order[block as usize] = kept;
        }
    }

    fn unique(&mut self, name: &str) -> String {
        let clean: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | ':') { c } else { '_' })
            .collect();
        let clean = if clean.is_empty() { "v".to_owned() } else { clean };
        if self.names.insert(clean.clone()) {
            return clean;
        }
        // The counter starts at the number of values so far, which keeps the search short.
        let mut n = self.values.len();
        loop {
            let candidate = format!("{clean}.{n}");
            if self.names.insert(candidate.clone()) {
                return candidate;
            }
            n += 1;
        }
    }
}

/// Lists operand types for an error.
pub fn display_types(types: &[Option<&Type>]) -> String {
    let items: Vec<String> = types.iter().map(|t| t.map_or("_".to_owned(), Type::to_string)).collect();
    items.join(", ")
}
