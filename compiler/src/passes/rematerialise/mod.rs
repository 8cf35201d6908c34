//! Rematerialise: what the backward reads of the forward is computed a second time where that is cheap for the memory it frees.
//!
//! An operator may be repeated if it takes at most so many operations for each byte of its results. The values that are kept are
//! a minimum cut, by bytes, between what must be kept and what the backward reads (as in PyTorch's min-cut partitioner); all
//! that lies behind the cut is repeated, just before it is first read. Repeated operators give the same bits.
//!
//! Under a limit on memory more may be repeated, and the forward is divided into segments: what passes from one to the next is
//! kept, so that no repetition reaches further back than its own segment (as in Chen et al. 2016, arXiv 1604.06174).

mod cut;
mod footprint;
mod repeat;
mod segments;
#[cfg(test)]
mod tests;

use super::{Context, Limit, Measured};
use crate::compile::Precision;
use crate::error::{Error, Result};
use crate::ir::{Graph, NodeId};
use cut::Network;
use footprint::Footprint;
use repeat::{Entry, Plain};
use std::collections::HashSet;

/// Operations for a byte up to which repeating is taken to cost nothing: elementwise functions and normalisations lie below,
/// products and convolutions above.
const FREE: u64 = 16;

/// The part of what is alive by which an estimate of it may be too high where values are kept in half precision.
const HALF_ERROR: u64 = 16;

/// Parts of the operators that may be repeated, of which a step towards repeating less takes one at most.
const PARTS: usize = 64;

/// Parts of the bytes of the forward that a segment may hold: all, a half, and so on.
const SEGMENTS: u32 = 8;

/// Runs the pass: as little is repeated as the limit allows, and what costs nothing always is.
pub fn run(graph: &mut Graph, context: &Context<'_>) -> Result<()> {
    let plain = Plain::new(graph);
    let mut network = network(&plain);
    plain.costs.iter().filter(|(_, c)| c.ratio() > FREE).for_each(|(id, _)| fix(&plain, &mut network, *id));
    let free = Candidate::new(&plain, network.behind());
    let repeated = plain.repeated(&free.again, &free.order)?;
    *graph = match &context.limit {
        Some(limit) => {
            let measured = (limit.measure)(&repeated)?;
            if measured.bytes <= limit.bytes { repeated } else { within(&plain, measured, limit, context)? }
        }
        None => repeated,
    };
    Ok(())
}

/// One way to divide the forward's values into kept and repeated ones.
struct Candidate {
    again: Vec<bool>,
    order: Vec<Entry>,
    flops: u64,
}

impl Candidate {
    fn new(plain: &Plain<'_>, again: Vec<bool>) -> Candidate {
        let (order, flops) = plain.order(&again);
        Candidate { again, order, flops }
    }
}

fn network(plain: &Plain<'_>) -> Network {
    Network::new(plain.graph, |id| plain.costs.contains_key(&id))
}

fn fix(plain: &Plain<'_>, network: &mut Network, id: NodeId) {
    plain.graph.node(id).outputs.iter().for_each(|v| network.fix(*v));
}

/// The graph that repeats least and stays within the limit, where the one that costs nothing takes `measured`.
///
/// Ways whose estimate is beyond the limit are not measured. The estimate for single precision is what no placement goes below, so
/// that neither the cheapest graph nor the least memory is missed.
fn within(plain: &Plain<'_>, measured: Measured, limit: &Limit<'_>, context: &Context<'_>) -> Result<Graph> {
    let mut footprint = Footprint::new(plain, context)?;
    let mut found = Vec::new();
    for candidate in candidates(plain) {
        let live = footprint.live(&candidate.again, &candidate.order);
        let error = if context.precision == Precision::Single { 0 } else { live / HALF_ERROR };
        found.push((measured.besides + live - error, candidate));
    }
    let measure = |c: &Candidate| -> Result<(Graph, u64)> {
        let graph = plain.repeated(&c.again, &c.order)?;
        let bytes = (limit.measure)(&graph)?.bytes;
        Ok((graph, bytes))
    };
    let mut least = measured.bytes;
    found.sort_by_key(|(_, candidate)| candidate.flops);
    for (_, candidate) in found.iter().filter(|(bound, _)| *bound <= limit.bytes) {
        let (graph, bytes) = measure(candidate)?;
        if bytes <= limit.bytes {
            return Ok(graph);
        }
        least = least.min(bytes);
    }
    found.retain(|(bound, _)| *bound > limit.bytes);
    found.sort_by_key(|(bound, _)| *bound);
    for (bound, candidate) in &found {
        if *bound >= least {
            break;
        }
        least = least.min(measure(candidate)?.1);
    }
    Err(Error::Memory { limit: limit.bytes, least, others: Vec::new() })
}

/// The ways that differ: for each size of segments, ever less may be repeated.
fn candidates(plain: &Plain<'_>) -> Vec<Candidate> {
    let mut ratios: Vec<(u64, NodeId)> = plain.costs.iter().map(|(id, c)| (c.ratio(), *id)).collect();
    ratios.retain(|(ratio, _)| *ratio > FREE);
    ratios.sort_unstable();
    let mut all = network(plain);
    all.behind();
    // Many are alike in large models, and what they free together is more than a limit may ask for.
    let most = ratios.len().div_ceil(PARTS);
    let mut seen: HashSet<Vec<bool>> = HashSet::new();
    let mut found = Vec::new();
    for part in 0..SEGMENTS {
        let mut network = all.clone();
        let passed = segments::passed(plain.graph, part);
        let fixed = passed.iter().filter_map(|v| plain.maker(*v));
        fixed.for_each(|id| fix(plain, &mut network, id));
        let mut costliest = ratios.as_slice();
        while let Some((ratio, _)) = costliest.last() {
            let again = network.behind();
            if seen.insert(again.clone()) {
                found.push(Candidate::new(plain, again));
            }
            let alike = costliest.len() - costliest.partition_point(|(r, _)| r < ratio);
            let (cheaper, fixed) = costliest.split_at(costliest.len() - alike.min(most));
            fixed.iter().for_each(|(_, id)| fix(plain, &mut network, *id));
            costliest = cheaper;
        }
    }
    found
}
