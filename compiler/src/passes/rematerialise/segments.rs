//! Segments of the forward.

use crate::ir::{Block, Graph, NodeId, ValueId};
use std::collections::{HashMap, HashSet};

/// The values that pass from one segment to another, if each segment holds about `1 / 2^part` of the bytes that the forward
/// makes. Segments end where little passes.
pub(super) fn passed(graph: &Graph, part: u32) -> HashSet<ValueId> {
    let order = graph.block(Block::Forward);
    let memory = Memory::new(graph, order);
    let made: Vec<u64> = order.iter().map(|id| memory.made(graph, *id)).collect();
    let most = made.iter().sum::<u64>() >> part;
    let mut passed = HashSet::new();
    // Bytes that pass each place between two nodes.
    let mut passing = vec![0i64; order.len() + 1];
    for (value, [first, last]) in &memory.lives {
        passing[*first] += graph.ty(*value).bytes() as i64;
        passing[*last] -= graph.ty(*value).bytes() as i64;
    }
    for i in 1..passing.len() {
        passing[i] += passing[i - 1];
    }
    let mut from = 0;
    while from < order.len() {
        let mut held = 0;
        let fitting = made[from..].iter().take_while(|bytes| {
            held += **bytes;
            held <= most
        });
        let end = (from + fitting.count()).max(from + 1);
        if end >= order.len() {
            break;
        }
        // Of the second half of what fits, the last place that least passes.
        let cut = (from + (end - from).div_ceil(2)..=end).rev().min_by_key(|i| passing[i - 1]).unwrap_or(end);
        passed.extend(memory.lives.iter().filter(|(_, [first, last])| *first < cut && cut <= *last).map(|(v, _)| *v));
        from = cut;
    }
    passed
}

/// From which to which node of the forward the memory of a value is in use.
struct Memory {
    lives: HashMap<ValueId, [usize; 2]>,
}

impl Memory {
    fn new(graph: &Graph, order: &[NodeId]) -> Memory {
        let mut viewed: HashMap<ValueId, ValueId> = HashMap::new();
        let mut lives: HashMap<ValueId, [usize; 2]> = HashMap::new();
        for (i, id) in order.iter().enumerate() {
            let node = graph.node(*id);
            for operand in node.inputs.iter().flatten() {
                let of = viewed.get(operand).copied().unwrap_or(*operand);
                if let Some(life) = lives.get_mut(&of) {
                    life[1] = i;
                }
            }
            match node.inputs.first() {
                Some(Some(of)) if node.op.is_view() => {
                    viewed.insert(node.outputs[0], viewed.get(of).copied().unwrap_or(*of));
                }
                _ => lives.extend(node.outputs.iter().map(|v| (*v, [i, i]))),
            }
        }
        Memory { lives }
    }

    /// Bytes of new memory that a node fills.
    fn made(&self, graph: &Graph, id: NodeId) -> u64 {
        let outputs = graph.node(id).outputs.iter().filter(|v| self.lives.contains_key(v));
        outputs.map(|v| graph.ty(*v).bytes() as u64).sum()
    }
}
