//! From graph to plan: each operator appends the launches that compute it.

use crate::ir::{Block, Def, Graph, NodeId, Payload, State, Type, ValueId, broadcast_strides, strides};
use sara_kernels::{DType, Element, Scalar};
use sara_runtime::plan::{ALIGN, Buffer, BufferId, Part, Place, Port, Program, Step};
use std::collections::{HashMap, HashSet};

/// Place of buffers that lie in the arena but are not placed yet.
pub const UNPLACED: u64 = u64::MAX;

/// Buffers shared by all programs of a plan, and the constants they hold.
#[derive(Default)]
pub struct Buffers {
    /// The buffers.
    pub list: Vec<Buffer>,
    /// Data of [`Place::Constant`] buffers.
    pub constants: Vec<u8>,
    /// Number in the plan of each sparse weight, by its index in [`Graph::weights`].
    sparse: HashMap<usize, u32>,
    fixed: HashMap<Place, BufferId>,
    literals: HashMap<(DType, Vec<u8>), BufferId>,
}

impl Buffers {
    /// No buffers yet, for a plan with these sparse weights.
    pub fn new(sparse: HashMap<usize, u32>) -> Buffers {
        Buffers { sparse, ..Buffers::default() }
    }

    /// The place that a value has in every program, unless it lies in the arena or among the constants.
    pub fn place_of(&self, graph: &Graph, value: ValueId) -> Option<Place> {
        let sparse = || self.sparse[&weight_of(graph, value)];
        Some(match graph.value(value).def {
            Def::Weight(weight) => Place::Weight(weight as u32),
            Def::File(of) => Place::File(weight_of(graph, of) as u32),
            Def::Index(..) => Place::Index(sparse()),
            Def::Param(_) => Place::Param(sparse()),
            Def::State(State::Gradient, _) => Place::Gradient(sparse()),
            Def::State(State::Moment1, _) => Place::Moment1(sparse()),
            Def::State(State::Moment2, _) => Place::Moment2(sparse()),
            Def::State(State::Absmax1, _) => Place::Absmax1(sparse()),
            Def::State(State::Absmax2, _) => Place::Absmax2(sparse()),
            Def::Hyper => Place::Hyper,
            Def::Arg(_) | Def::Const(_) | Def::Node(..) => return None,
        })
    }

    fn add(&mut self, name: &str, dtype: DType, len: usize, place: Place) -> BufferId {
        self.list.push(Buffer { name: name.to_owned(), dtype, len: len as u64, place });
        BufferId(self.list.len() as u32 - 1)
    }

    fn fixed(&mut self, name: &str, ty: &Type, place: Place) -> BufferId {
        if let Some(id) = self.fixed.get(&place) {
            return *id;
        }
        let id = self.add(name, ty.dtype, ty.len(), place);
        self.fixed.insert(place, id);
        id
    }

    fn constant(&mut self, name: &str, dtype: DType, bytes: &[u8]) -> BufferId {
        let key = (dtype, bytes.to_vec());
        if let Some(id) = self.literals.get(&key) {
            return *id;
        }
        let at = self.constants.len().next_multiple_of(ALIGN as usize);
        self.constants.resize(at, 0);
        self.constants.extend_from_slice(bytes);
        let id = self.add(name, dtype, bytes.len() / dtype.size(), Place::Constant(at as u64));
        self.literals.insert(key, id);
        id
    }
}

/// What an operator lowers itself with: the buffers of its operands and results, and a list of launches to append to.
pub struct Lower<'a> {
    graph: &'a Graph,
    node: NodeId,
    buffers: &'a mut Buffers,
    bound: &'a mut HashMap<ValueId, BufferId>,
    steps: &'a mut Vec<Step>,
    /// Operands whose memory nothing reads after this node.
    dying: &'a HashSet<ValueId>,
    /// Where the node stands.
    block: Block,
}

impl Lower<'_> {
    /// Buffer of operand `i`, which must be present.
    pub fn input(&mut self, i: usize) -> BufferId {
        match self.try_input(i) {
            Some(buffer) => buffer,
            None => unreachable!("operand {i} of `{}` is absent", self.graph.node(self.node).origin),
        }
    }

    /// Buffer of operand `i`.
    pub fn try_input(&mut self, i: usize) -> Option<BufferId> {
        let value = self.graph.node(self.node).inputs.get(i).copied().flatten()?;
        Some(self.bind(value))
    }

    /// Buffer of operand `i`; of an index or a param, with what trains no more.
    pub fn try_whole(&mut self, i: usize) -> Option<BufferId> {
        let value = self.graph.node(self.node).inputs.get(i).copied().flatten()?;
        let whole = self.buffers.place_of(self.graph, value).and_then(Place::whole);
        let Some(whole) = whole else { return Some(self.bind(value)) };
        let v = self.graph.value(value);
        Some(self.buffers.fixed(&v.name, &v.ty, whole))
    }

    /// Buffer of result `i`.
    pub fn output(&mut self, i: usize) -> BufferId {
        let value = self.graph.node(self.node).outputs[i];
        self.bind(value)
    }

    /// Type of operand `i`, which must be present.
    pub fn input_type(&self, i: usize) -> &Type {
        match self.graph.node(self.node).inputs.get(i).copied().flatten() {
            Some(value) => self.graph.ty(value),
            None => unreachable!("operand {i} of `{}` is absent", self.graph.node(self.node).origin),
        }
    }

    /// Type of result `i`.
    pub fn output_type(&self, i: usize) -> &Type {
        self.graph.ty(self.graph.node(self.node).outputs[i])
    }

    /// Makes result `output` the same memory as operand `input`: the node costs nothing.
    pub fn alias(&mut self, output: usize, input: usize) {
        let buffer = self.input(input);
        let value = self.graph.node(self.node).outputs[output];
        self.bound.insert(value, buffer);
    }

    /// Whether operand `i` lies in memory that nothing reads after this node, so that a result may take its place.
    pub fn dies(&self, i: usize) -> bool {
        self.graph.node(self.node).inputs.get(i).copied().flatten().is_some_and(|v| self.dying.contains(&v))
    }

    /// Working memory for the launches of this node.
    pub fn temp(&mut self, dtype: DType, len: usize) -> BufferId {
        self.buffers.add("work", dtype, len, Place::Arena(UNPLACED))
    }

    /// A constant.
    pub fn constant<T: Element>(&mut self, dtype: DType, values: &[T]) -> BufferId {
        self.buffers.constant("c", dtype, bytemuck::cast_slice(values))
    }

    /// Appends a launch.
    pub fn launch(&mut self, kernel: &str, args: &[Option<BufferId>], scalars: Vec<Scalar>) {
        let Some(kernel) = sara_kernels::find(kernel) else { unreachable!("there is no kernel `{kernel}`") };
        let node = self.graph.node(self.node);
        let part = match self.block {
            Block::Forward => Part::Forward,
            Block::Backward if node.again => Part::Again,
            Block::Backward => Part::Backward,
            Block::Update => Part::Update,
        };
        let (args, origin) = (args.to_vec(), node.origin.to_string());
        self.steps.push(Step { kernel, args, scalars, origin, part });
    }

    /// Appends a launch of `copy`: `y[y_offset + i*y_strides] = x[x_offset + i*x_strides]` for all `i` in `shape`.
    pub fn copy(
        &mut self,
        x: BufferId,
        (x_offset, x_strides): (i64, &[i64]),
        y: BufferId,
        (y_offset, y_strides): (i64, &[i64]),
        shape: &[usize],
    ) {
        let scalars = vec![
            dims(shape),
            Scalar::Int(x_offset),
            Scalar::Ints(x_strides.to_vec()),
            Scalar::Int(y_offset),
            Scalar::Ints(y_strides.to_vec()),
        ];
        self.launch("copy", &[Some(x), Some(y)], scalars);
    }

    fn bind(&mut self, value: ValueId) -> BufferId {
        bind(self.graph, value, self.buffers, self.bound)
    }
}

/// Dimensions as a scalar list.
pub fn dims(shape: &[usize]) -> Scalar {
    Scalar::Ints(shape.iter().map(|d| *d as i64).collect())
}

/// An integer as a scalar.
pub fn int(value: usize) -> Scalar {
    Scalar::Int(value as i64)
}

/// The strides with which `from` is read as `to`, as a scalar list.
pub fn reading(from: &[usize], to: &[usize]) -> Scalar {
    Scalar::Ints(broadcast_strides(from, to))
}

/// Contiguous strides of a shape, as a scalar list.
pub fn contiguous(shape: &[usize]) -> Scalar {
    Scalar::Ints(strides(shape))
}

/// Index in [`Graph::weights`] of the weight that an index, param or state belongs to.
fn weight_of(graph: &Graph, value: ValueId) -> usize {
    match graph.value(value).def {
        Def::Weight(weight) => weight,
        Def::File(of) | Def::Index(of, _) | Def::Param(of) | Def::State(_, of) => weight_of(graph, of),
        _ => unreachable!("`%{}` belongs to no weight", graph.value(value).name),
    }
}

fn bind(graph: &Graph, value: ValueId, buffers: &mut Buffers, bound: &mut HashMap<ValueId, BufferId>) -> BufferId {
    if let Some(buffer) = bound.get(&value) {
        return *buffer;
    }
    let v = graph.value(value);
    let buffer = match (&v.def, buffers.place_of(graph, value)) {
        (_, Some(place)) => buffers.fixed(&v.name, &v.ty, place),
        (Def::Const(Payload::Known(bytes)), _) => buffers.constant(&v.name, v.ty.dtype, bytes),
        (Def::Const(Payload::Opaque(_)), _) => unreachable!("`%{}` was parsed from a text without its data", v.name),
        _ => buffers.add(&v.name, v.ty.dtype, v.ty.len(), Place::Arena(UNPLACED)),
    };
    bound.insert(value, buffer);
    buffer
}

/// Number in the plan of each sparse weight: they are counted in the order of their indices in the graph.
pub fn sparse_numbers(graph: &Graph) -> HashMap<usize, u32> {
    let indices = graph.values().filter(|(_, v)| matches!(v.def, Def::Index(..)));
    indices.map(|(id, _)| weight_of(graph, id)).zip(0..).collect()
}

/// Lowers blocks of `graph` to a program called `name` that gives back `returns`. Its arena buffers are not placed yet.
pub fn lower(
    graph: &Graph,
    name: &str,
    blocks: &[Block],
    returns: &[(String, ValueId)],
    buffers: &mut Buffers,
) -> Program {
    let mut bound = HashMap::new();
    let mut steps = Vec::new();
    let placed = needed(graph, blocks, returns);
    let nodes: Vec<NodeId> = placed.iter().map(|(_, id)| *id).collect();
    let used: HashSet<ValueId> = nodes
        .iter()
        .flat_map(|id| graph.node(*id).inputs.iter().flatten().copied())
        .chain(returns.iter().map(|r| r.1))
        .collect();
    let port = |name: &str, value: ValueId, buffer: BufferId| Port {
        name: name.to_owned(),
        buffer,
        shape: graph.ty(value).shape.iter().map(|d| *d as u64).collect(),
    };
    let mut inputs = Vec::new();
    for (id, value) in graph.values().filter(|(id, _)| used.contains(id)) {
        if let Def::Arg(name) = &value.def {
            let buffer = bind(graph, id, buffers, &mut bound);
            inputs.push(port(name, id, buffer));
        }
    }
    for ((block, node), dying) in placed.into_iter().zip(deaths(graph, &nodes, returns)) {
        let mut l = Lower { graph, node, buffers, bound: &mut bound, steps: &mut steps, dying: &dying, block };
        graph.node(node).op.lower(&mut l);
    }
    let outputs = returns.iter().map(|(name, v)| port(name, *v, bind(graph, *v, buffers, &mut bound))).collect();
    Program { name: name.to_owned(), inputs, outputs, steps, arena_bytes: 0, peak: Default::default() }
}

/// For each node the operands that lie in the arena and that neither a later node nor a return reads, themselves or through
/// another view.
fn deaths(graph: &Graph, nodes: &[NodeId], returns: &[(String, ValueId)]) -> Vec<HashSet<ValueId>> {
    let mut viewed: HashMap<ValueId, ValueId> = HashMap::new();
    for node in nodes.iter().map(|id| graph.node(*id)).filter(|n| n.op.is_view()) {
        if let Some(Some(of)) = node.inputs.first() {
            viewed.insert(node.outputs[0], viewed.get(of).copied().unwrap_or(*of));
        }
    }
    let memory = |v: ValueId| viewed.get(&v).copied().unwrap_or(v);
    let mut read_later: HashSet<ValueId> = returns.iter().map(|r| memory(r.1)).collect();
    let mut deaths = Vec::with_capacity(nodes.len());
    for id in nodes.iter().rev() {
        let node = graph.node(*id);
        let operands = || node.inputs.iter().flatten().copied();
        let made = |v: &ValueId| matches!(graph.value(memory(*v)).def, Def::Node(..));
        let mut seen = HashSet::new();
        let twice: HashSet<ValueId> = operands().map(memory).filter(|v| !seen.insert(*v)).collect();
        let alone = |v: &ValueId| !read_later.contains(&memory(*v)) && !twice.contains(&memory(*v));
        deaths.push(if node.op.is_view() { HashSet::new() } else { operands().filter(made).filter(alone).collect() });
        read_later.extend(operands().map(memory));
    }
    deaths.reverse();
    deaths
}

/// The nodes of the blocks that the returns depend on, and those that act on state.
fn needed(graph: &Graph, blocks: &[Block], returns: &[(String, ValueId)]) -> Vec<(Block, NodeId)> {
    let mut wanted: HashSet<ValueId> = returns.iter().map(|r| r.1).collect();
    let mut nodes = Vec::new();
    for (block, id) in blocks.iter().flat_map(|b| graph.block(*b).iter().map(|id| (*b, *id))).rev() {
        let node = graph.node(id);
        if node.outputs.is_empty() || node.outputs.iter().any(|o| wanted.contains(o)) {
            wanted.extend(node.inputs.iter().flatten());
            nodes.push((block, id));
        }
    }
    nodes.reverse();
    nodes
}

/// Lowers one node on its own. Returns the launches and the buffers of the results.
pub fn lower_node(graph: &Graph, node: NodeId, buffers: &mut Buffers) -> (Vec<Step>, Vec<BufferId>) {
    let (steps, mut bound) = lower_among(graph, node, &HashSet::new(), buffers);
    let outputs = graph.node(node).outputs.iter().map(|v| bind(graph, *v, buffers, &mut bound)).collect();
    (steps, outputs)
}

/// Lowers one node among others, after which nothing reads the operands in `dying`. Returns the launches, and the buffers of
/// operands and results.
pub fn lower_among(
    graph: &Graph,
    node: NodeId,
    dying: &HashSet<ValueId>,
    buffers: &mut Buffers,
) -> (Vec<Step>, HashMap<ValueId, BufferId>) {
    let mut bound = HashMap::new();
    let mut steps = Vec::new();
    let block = Block::Forward;
    let mut l = Lower { graph, node, buffers, bound: &mut bound, steps: &mut steps, dying, block };
    graph.node(node).op.lower(&mut l);
    (steps, bound)
}
