//! Place: gives every arena buffer of a program its offset.
//!
//! Buffers are placed from the largest to the smallest, each at the lowest offset at which it meets no placed buffer that is
//! alive at the same time (greedy by size, Pisarchyk and Lee 2020, arXiv 2001.03288).

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
    let mut placed: Vec<(Life, u64)> = Vec::with_capacity(lives.len());
    let mut end = 0;
    for life in lives {
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|(other, _)| other.first <= life.last && life.first <= other.last)
            .map(|(other, at)| (*at, at + other.bytes))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (from, to) in taken {
            if at + life.bytes <= from {
                break;
            }
            at = at.max(to);
        }
        placed.push((life, at));
        end = end.max(at + life.bytes);
        buffers[life.buffer as usize].place = Place::Arena(at);
    }
    program.arena_bytes = end;
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
