//! Place: gives every arena buffer of a program its offset.
//!
//! Buffers are placed from the largest to the smallest, each at the lowest offset at which it meets no placed buffer that is
//! alive at the same time (greedy by size, Pisarchyk and Lee 2020, arXiv 2001.03288). What is taken when is kept in a tree over the
//! steps, so that the time to place a buffer hardly grows with their number.

use crate::lower::UNPLACED;
use sara_runtime::plan::{ALIGN, Buffer, Peak, Place, Program};
use std::collections::HashMap;

/// When a buffer of a program is alive: from the step that first touches it to the step that last does.
#[derive(Clone, Copy, Debug)]
struct Life {
    buffer: u32,
    first: usize,
    last: usize,
    bytes: u64,
}

/// Places the buffers of `program` and records what it needs.
pub fn place(program: &mut Program, buffers: &mut [Buffer]) {
    let mut lives = lives(program, buffers);
    program.peak = peak(&lives, program.steps.len().max(1));
    lives.sort_by_key(|l| (std::cmp::Reverse(l.bytes), l.first, l.buffer));
    let mut taken = Taken::new(program.steps.len().max(1));
    let mut end = 0;
    for life in lives {
        let at = taken.lowest(&life);
        taken.add(&life, at);
        end = end.max(at + life.bytes);
        buffers[life.buffer as usize].place = Place::Arena(at);
    }
    program.arena_bytes = end;
}

/// What is taken at which step: a segment tree over the steps.
struct Taken {
    /// Leaves of the tree: steps, filled up to a power of two.
    leaves: usize,
    nodes: Vec<Span>,
}

/// The steps of one node of the tree.
#[derive(Clone, Default)]
struct Span {
    /// Taken at some step.
    some: Ranges,
    /// Taken at all steps, of what was not added to a node above.
    all: Ranges,
}

impl Taken {
    fn new(steps: usize) -> Taken {
        let leaves = steps.next_power_of_two();
        Taken { leaves, nodes: vec![Span::default(); 2 * leaves] }
    }

    /// The nodes whose steps together are those of the life.
    fn nodes(&self, life: &Life) -> Vec<usize> {
        let (mut low, mut high) = (life.first + self.leaves, life.last + self.leaves + 1);
        let mut nodes = Vec::new();
        while low < high {
            if low % 2 == 1 {
                nodes.push(low);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                nodes.push(high);
            }
            (low, high) = (low / 2, high / 2);
        }
        nodes
    }

    /// The lowest offset at which the life meets nothing that is taken.
    fn lowest(&self, life: &Life) -> u64 {
        let nodes = self.nodes(life);
        let mut met: Vec<&Ranges> = nodes.iter().map(|node| &self.nodes[*node].some).collect();
        let mut above: Vec<usize> = nodes.iter().flat_map(|node| ancestors(*node)).collect();
        above.sort_unstable();
        above.dedup();
        met.extend(above.iter().map(|node| &self.nodes[*node].all));
        met.retain(|ranges| !ranges.0.is_empty());
        let mut at = 0;
        loop {
            let before = at;
            for ranges in &met {
                at = ranges.lowest(at, life.bytes);
            }
            if at == before {
                return at;
            }
        }
    }

    fn add(&mut self, life: &Life, at: u64) {
        for node in self.nodes(life) {
            self.nodes[node].all.add(at, at + life.bytes);
            self.nodes[node].some.add(at, at + life.bytes);
            for above in ancestors(node) {
                self.nodes[above].some.add(at, at + life.bytes);
            }
        }
    }
}

/// The nodes of a segment tree above one.
fn ancestors(node: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(node / 2), |above| Some(above / 2)).take_while(|above| *above > 0)
}

/// Ranges of offsets that do not touch each other, in order.
#[derive(Clone, Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The lowest offset from `at` on at which so many bytes meet no range.
    fn lowest(&self, mut at: u64, bytes: u64) -> u64 {
        let first = self.0.partition_point(|range| range.1 <= at);
        for (from, to) in &self.0[first..] {
            if at + bytes <= *from {
                break;
            }
            at = *to;
        }
        at
    }

    fn add(&mut self, from: u64, to: u64) {
        let first = self.0.partition_point(|range| range.1 < from);
        let end = first + self.0[first..].partition_point(|range| range.0 <= to);
        let touched = &self.0[first..end];
        let low = touched.first().map_or(from, |range| range.0.min(from));
        let high = touched.last().map_or(to, |range| range.1.max(to));
        self.0.splice(first..end, [(low, high)]);
    }
}

fn lives(program: &Program, buffers: &[Buffer]) -> Vec<Life> {
    let last_step = program.steps.len().saturating_sub(1);
    let mut found: HashMap<u32, (usize, usize)> = HashMap::new();
    for port in &program.inputs {
        found.insert(port.buffer.0, (0, 0));
    }
    for (i, step) in program.steps.iter().enumerate() {
        for buffer in step.args.iter().flatten() {
            let life = found.entry(buffer.0).or_insert((i, i));
            life.1 = i;
        }
    }
    for port in &program.outputs {
        let life = found.entry(port.buffer.0).or_insert((0, last_step));
        life.1 = last_step;
    }
    found
        .into_iter()
        .filter(|(buffer, _)| buffers[*buffer as usize].place == Place::Arena(UNPLACED))
        .map(|(buffer, (first, last))| {
            let b = &buffers[buffer as usize];
            let bytes = (b.len * b.dtype.size() as u64).next_multiple_of(ALIGN).max(ALIGN);
            Life { buffer, first, last, bytes }
        })
        .collect()
}

/// The step at which most bytes are alive. A program without steps holds its inputs and outputs as if it had one.
fn peak(lives: &[Life], steps: usize) -> Peak {
    let mut change = vec![0i64; steps + 1];
    for life in lives {
        change[life.first] += life.bytes as i64;
        change[(life.last + 1).min(steps)] -= life.bytes as i64;
    }
    let mut peak = Peak::default();
    let mut live = 0;
    for (step, delta) in change.iter().take(steps).enumerate() {
        live += delta;
        if live as u64 > peak.live_bytes {
            peak = Peak { step: step as u32, live_bytes: live as u64 };
        }
    }
    peak
}

#[cfg(test)]
mod tests {
    use super::{Life, Taken};

    #[test]
    fn each_buffer_has_the_lowest_place_that_is_free() {
        let mut state = 1u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for steps in [1, 2, 7, 100] {
            let mut taken = Taken::new(steps);
            let mut placed: Vec<(Life, u64)> = Vec::new();
            for buffer in 0..300 {
                let (a, b) = (below(steps as u64) as usize, below(steps as u64) as usize);
                let life = Life { buffer, first: a.min(b), last: a.max(b), bytes: 1 + below(50) };
                let free = |at: u64| {
                    let apart = |(other, start): &(Life, u64)| {
                        other.last < life.first
                            || life.last < other.first
                            || at + life.bytes <= *start
                            || start + other.bytes <= at
                    };
                    placed.iter().all(apart)
                };
                let lowest = (0..).find(|at| free(*at));
                assert_eq!(Some(taken.lowest(&life)), lowest);
                taken.add(&life, lowest.unwrap_or(0));
                placed.push((life, lowest.unwrap_or(0)));
            }
        }
    }
}
