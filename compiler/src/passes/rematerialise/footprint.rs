//! How many bytes are alive at once if these nodes run in this order, without making their graph.
//!
//! Each node is lowered once, or once for each operand whose place its result may take; an order of nodes is then a walk over what
//! their launches touch. For single precision the count is that of the placed program, or less; values kept in half precision are
//! taken to be widened by each node that does not read them so, and copies to be rounded where what they are copies of is.

use super::repeat::{Entry, Plain};
use crate::compile::{Precision, Residency};
use crate::error::Result;
use crate::ir::verify::LOSS;
use crate::ir::{Block, Def, Graph, Node, NodeId, Type, ValueId};
use crate::lower::{Buffers, lower_among, sparse_numbers};
use crate::passes::{Context, round, stream};
use sara_kernels::DType;
use sara_runtime::plan::{ALIGN, Buffer, BufferId, Place};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// What the launches of a node touch.
struct Touched {
    launches: Vec<Vec<Item>>,
    /// Bytes of working memory, by number.
    work: Vec<u64>,
}

#[derive(Clone, Copy)]
enum Item {
    Value(ValueId),
    Work(usize),
}

pub(super) struct Footprint<'p> {
    plain: &'p Plain<'p>,
    buffers: Buffers,
    touched: HashMap<(NodeId, Option<usize>), Touched>,
    /// Bytes of the streamed weight that a value is, or is a view of.
    streamed: Vec<Option<u64>>,
    /// The graph with what is rounded where it is made.
    rounded: Cow<'p, Graph>,
    /// Bytes in which a value is kept, if they are fewer than its own.
    kept: Vec<Option<u64>>,
}

impl<'p> Footprint<'p> {
    pub(super) fn new(plain: &'p Plain<'p>, context: &Context<'_>) -> Result<Footprint<'p>> {
        let mut rounded = Cow::Borrowed(plain.graph);
        if context.precision == Precision::Bf16 {
            round::run(rounded.to_mut(), context)?;
        }
        let graph = rounded.as_ref();
        let values = graph.values().count();
        let mut streamed = vec![None; values];
        if context.weights == Residency::Streamed {
            for (id, value) in graph.values() {
                streamed[id.0 as usize] = match value.def {
                    Def::Weight(_) => stream::is_large(&value.ty).then(|| room(value.ty.bytes() as u64)),
                    Def::Node(node, _) if graph.node(node).op.is_view() => {
                        graph.node(node).inputs[0].and_then(|of| streamed[of.0 as usize])
                    }
                    _ => None,
                };
            }
        }
        let mut kept = vec![None; values];
        if context.precision.half().is_some() {
            let returned: HashSet<ValueId> = graph.returns.iter().map(|r| r.1).collect();
            for value in graph.block(Block::Forward).iter().flat_map(|id| &graph.node(*id).outputs) {
                if graph.ty(*value).dtype == DType::F32 && !returned.contains(value) {
                    kept[value.0 as usize] = Some(room(graph.ty(*value).bytes() as u64 / 2));
                }
            }
        }
        let buffers = Buffers::new(sparse_numbers(graph));
        Ok(Footprint { plain, buffers, touched: HashMap::new(), streamed, rounded, kept })
    }

    /// Bytes alive at the busiest launch, if the backward is `order`.
    pub(super) fn live(&mut self, again: &[bool], order: &[Entry]) -> u64 {
        let graph = self.plain.graph;
        let forward = forward(graph, again, order).into_iter().map(|node| Entry { node, copy: false });
        let entries: Vec<(Entry, bool)> = forward.map(|e| (e, false)).chain(order.iter().map(|e| (*e, true))).collect();
        let mut walk = Walk::new(graph, again, &entries);
        for (at, (entry, backward)) in entries.iter().enumerate() {
            let node = graph.node(entry.node);
            let inputs = || node.inputs.iter().flatten().copied();
            if node.op.is_view() {
                let Some(of) = node.inputs[0] else { continue };
                walk.share(node.outputs[0], of, *entry, *backward);
                continue;
            }
            let widened = if *backward { self.widened(node, again) } else { 0 };
            let replaced = walk.dying(node, at, *backward);
            let touched = self
                .touched
                .entry((entry.node, replaced))
                .or_insert_with(|| touched(graph, entry.node, replaced, &mut self.buffers));
            if let Some(slot) = replaced
                && touched.launches.iter().flatten().all(|i| !matches!(i, Item::Value(v) if *v == node.outputs[0]))
                && let Some(of) = node.inputs[slot]
            {
                walk.share(node.outputs[0], of, *entry, *backward);
            }
            let begin = walk.step;
            let fetched: u64 = inputs().filter_map(|v| self.streamed[v.0 as usize]).sum();
            let mut work: Vec<Option<[usize; 2]>> = vec![None; touched.work.len()];
            for launch in &touched.launches {
                for item in launch {
                    match item {
                        Item::Work(i) => work[*i].get_or_insert([walk.step; 2])[1] = walk.step,
                        Item::Value(v) => walk.touch(*v, *entry, *backward),
                    }
                }
                walk.step += 1;
            }
            for (bytes, life) in touched.work.iter().zip(work) {
                walk.spans.extend(life.map(|[first, last]| (first, last, *bytes)));
            }
            if fetched + widened > 0 && walk.step > begin {
                walk.spans.push((begin, walk.step - 1, fetched + widened));
            }
        }
        walk.live(&self.rounded, &self.kept)
    }

    /// Bytes of what a node of the backward reads of the forward and cannot read rounded.
    fn widened(&self, node: &Node, again: &[bool]) -> u64 {
        let graph = self.rounded.as_ref();
        let types: Vec<Option<&Type>> = node.inputs.iter().map(|i| i.map(|v| graph.ty(v))).collect();
        let takes = node.op.rounded(&types);
        let wide = |slot: usize, value: ValueId| {
            let made = self.plain.maker(value).is_some() && !again[value.0 as usize];
            let half = self.kept[value.0 as usize].is_some() || graph.ty(value).dtype.is_half();
            let same = slot == 0 && takes.same && node.outputs.iter().any(|v| graph.ty(*v).dtype.is_half());
            made && half && !same && !takes.takes(slot)
        };
        let values = node.inputs.iter().enumerate().filter_map(|(slot, value)| value.filter(|v| wide(slot, *v)));
        values.map(|v| room((graph.ty(v).len() * size_of::<f32>()) as u64)).sum()
    }
}

/// The nodes of the forward that the loss and the backward depend on.
fn forward(graph: &Graph, again: &[bool], order: &[Entry]) -> Vec<NodeId> {
    let mut wanted = vec![false; again.len()];
    graph.returns.iter().filter(|r| r.0 == LOSS).for_each(|r| wanted[r.1.0 as usize] = true);
    let read = order.iter().flat_map(|entry| graph.node(entry.node).inputs.iter().flatten());
    read.filter(|v| !again[v.0 as usize]).for_each(|v| wanted[v.0 as usize] = true);
    let mut nodes = graph.block(Block::Forward).to_vec();
    nodes.reverse();
    nodes.retain(|id| {
        let node = graph.node(*id);
        let needed = node.outputs.is_empty() || node.outputs.iter().any(|v| wanted[v.0 as usize]);
        if needed {
            node.inputs.iter().flatten().for_each(|v| wanted[v.0 as usize] = true);
        }
        needed
    });
    nodes.reverse();
    nodes
}

/// Bytes that a buffer takes.
fn room(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN).max(ALIGN)
}

/// What the launches of a node touch in the arena, if operand `replaced` dies there.
fn touched(graph: &Graph, id: NodeId, replaced: Option<usize>, buffers: &mut Buffers) -> Touched {
    let node = graph.node(id);
    let dying: HashSet<ValueId> = replaced.and_then(|slot| node.inputs[slot]).into_iter().collect();
    let (steps, bound) = lower_among(graph, id, &dying, buffers);
    let mut names: HashMap<BufferId, Item> = HashMap::new();
    // An operand before the result that takes its place.
    for value in node.outputs.iter().chain(node.inputs.iter().flatten()) {
        names.extend(bound.get(value).map(|buffer| (*buffer, Item::Value(*value))));
    }
    let mut work = Vec::new();
    let mut item = |buffer: &BufferId| {
        let Buffer { place, len, dtype, .. } = &buffers.list[buffer.0 as usize];
        if !matches!(place, Place::Arena(_)) {
            return None;
        }
        Some(*names.entry(*buffer).or_insert_with(|| {
            work.push(room(len * dtype.size() as u64));
            Item::Work(work.len() - 1)
        }))
    };
    let launches = steps.iter().map(|step| step.args.iter().flatten().filter_map(&mut item).collect()).collect();
    Touched { launches, work }
}

/// A walk over an order of nodes. A value and its copy are two memories.
struct Walk<'w> {
    graph: &'w Graph,
    again: &'w [bool],
    /// The memory of each value, then of each copy.
    memory: Vec<usize>,
    /// What shares memory as views, by the entry that reads it last.
    root: Vec<usize>,
    last_read: Vec<usize>,
    /// From which to which launch each memory is in use, and the last of them in the forward.
    lives: Vec<Option<[usize; 2]>>,
    in_forward: Vec<usize>,
    step: usize,
    /// Other bytes in use from one launch to another.
    spans: Vec<(usize, usize, u64)>,
}

impl<'w> Walk<'w> {
    fn new(graph: &'w Graph, again: &'w [bool], entries: &[(Entry, bool)]) -> Walk<'w> {
        let n = again.len();
        let mut walk = Walk {
            graph,
            again,
            memory: (0..2 * n).collect(),
            root: (0..2 * n).collect(),
            last_read: vec![usize::MAX; 2 * n],
            lives: vec![None; 2 * n],
            in_forward: vec![0; 2 * n],
            step: 0,
            spans: Vec::new(),
        };
        for (at, (entry, backward)) in entries.iter().enumerate() {
            let node = graph.node(entry.node);
            for value in node.inputs.iter().flatten() {
                let root = walk.root[walk.read(*value, *backward)];
                walk.last_read[root] = at;
            }
            if let (true, Some(Some(of))) = (node.op.is_view(), node.inputs.first()) {
                let made = walk.made(node.outputs[0], *entry);
                walk.root[made] = walk.root[walk.read(*of, *backward)];
            }
        }
        for (_, value) in graph.returns.iter().filter(|r| r.0 == LOSS) {
            let root = walk.root[value.0 as usize];
            walk.last_read[root] = usize::MAX;
        }
        walk
    }

    /// The number of the value or copy that a node reads as `value`.
    fn read(&self, value: ValueId, backward: bool) -> usize {
        let value = value.0 as usize;
        if backward && self.again[value] { value + self.again.len() } else { value }
    }

    /// The number of the value or copy that an entry makes as `value`.
    fn made(&self, value: ValueId, entry: Entry) -> usize {
        value.0 as usize + if entry.copy { self.again.len() } else { 0 }
    }

    fn share(&mut self, output: ValueId, of: ValueId, entry: Entry, backward: bool) {
        let (made, of) = (self.made(output, entry), self.read(of, backward));
        self.memory[made] = self.memory[of];
    }

    /// The last operand of the result's type whose memory nothing reads later: what a product adds comes after its factors.
    fn dying(&self, node: &Node, at: usize, backward: bool) -> Option<usize> {
        let roots: Vec<Option<usize>> =
            node.inputs.iter().map(|v| v.map(|v| self.root[self.read(v, backward)])).collect();
        (0..roots.len()).rev().find(|slot| {
            let (Some(root), Some(value)) = (roots[*slot], node.inputs[*slot]) else { return false };
            let made = ValueId((root % self.again.len()) as u32);
            self.last_read[root] == at
                && node.outputs.first().is_some_and(|result| self.graph.ty(value) == self.graph.ty(*result))
                && roots.iter().filter(|r| **r == Some(root)).count() == 1
                && matches!(self.graph.value(made).def, Def::Node(..))
        })
    }

    fn touch(&mut self, value: ValueId, entry: Entry, backward: bool) {
        let node = self.graph.node(entry.node);
        let made = node.outputs.contains(&value);
        let number = if made { self.made(value, entry) } else { self.read(value, backward) };
        let memory = self.memory[number];
        self.lives[memory].get_or_insert([self.step; 2])[1] = self.step;
        if !backward {
            self.in_forward[memory] = self.step;
        }
    }

    fn live(mut self, graph: &Graph, kept: &[Option<u64>]) -> u64 {
        let mut change = vec![0i64; self.step + 2];
        // The loss is read when all has run.
        for (_, loss) in graph.returns.iter().filter(|r| r.0 == LOSS) {
            let end = self.step.saturating_sub(1);
            self.lives[self.memory[loss.0 as usize]].get_or_insert([0; 2])[1] = end;
        }
        for (number, life) in self.lives.iter().enumerate() {
            let Some([first, last]) = *life else { continue };
            let value = ValueId((number % self.again.len()) as u32);
            let bytes = room(graph.ty(value).bytes() as u64);
            let first = match graph.value(value).def {
                Def::Arg(_) => 0,
                Def::Node(..) => first,
                // A view of a weight or constant.
                _ => continue,
            };
            let forward = self.in_forward[number];
            match kept.get(number).copied().flatten().filter(|_| last > forward) {
                Some(rounded) => self.spans.extend([(first, forward, bytes), (forward + 1, last, rounded)]),
                None => self.spans.push((first, last, bytes)),
            }
        }
        for (first, last, bytes) in self.spans {
            change[first] += bytes as i64;
            change[last + 1] -= bytes as i64;
        }
        let mut live = 0;
        change.iter().fold(0, |most: i64, delta| {
            live += delta;
            most.max(live)
        }) as u64
    }
}
