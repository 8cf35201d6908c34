//! Cuts found one after another, and what is estimated of an order of nodes against its placed program.

use super::{Candidate, candidates, fix, footprint::Footprint, network, repeat::Plain};
use crate::compile::{Precision, Residency};
use crate::ir::{Block, Graph, NodeId, parse};
use crate::loss::Loss;
use crate::lower::{Buffers, lower, sparse_numbers};
use crate::passes::{Context, PIPELINE};
use crate::place::place;
use crate::select::Chosen;
use std::collections::HashSet;

/// Views, sums in place, copies, normalisations with three results, a weight that is read through a view, an output that is not
/// that of the loss.
const TEXT: &str = r#"graph mixed stage=sparse
  arg    %x f32[64,96]
  weight %v f32[96,192] "v"
  weight %w f32[96,96] "w"
  weight %u f32[1,96,96] "u"
  index  %v.idx u32[3] of %v {2,7,30}
  param  %v.p f32[3] at %v.idx
  index  %w.idx u32[3] of %w {2,7,30}
  param  %w.p f32[3] at %w.idx
forward
  %v.s f32[96,192] = SparseDelta %v, %v.idx, %v.p
  %n f32[64,96], %m f32[64], %r f32[64] = LayerNorm %x, _, _ {axis=1 epsilon=0.00001}
  %h f32[64,192] = MatMul %n, %v.s {trans_a=0 trans_b=0}
  %a f32[64,96] = Slice %h {sizes=[64,96] starts=[0,0] steps=[1,1]}
  %g f32[64,96] = Slice %h {sizes=[64,96] starts=[0,96] steps=[1,1]}
  %s f32[64,96] = Unary %g {alpha=0.0 beta=0.0 op=silu}
  %p f32[64,96] = Binary %a, %s {op=mul}
  %w.s f32[96,96] = SparseDelta %w, %w.idx, %w.p
  %q f32[64,96] = MatMul %p, %w.s {trans_a=0 trans_b=0}
  %z f32[64,96] = Binary %q, %x {op=add}
  %k f32[2,32,96] = Reshape %z {shape=[2,32,96]}
  %t f32[96,96] = Reshape %u {shape=[96,96]}
  %y f32[2,32,96] = MatMul %k, %t {trans_a=0 trans_b=0}
  %e f32[2,32,96] = Unary %y {alpha=0.0 beta=0.0 op=silu}
  %d f32[2,32,96] = Binary %e, %y {op=mul}
return %e, %d
"#;

fn context(selection: &Chosen, weights: Residency) -> Context<'_> {
    let (loss, precision) = (Loss::default(), Precision::Single);
    Context { selection, loss, limit: None, weights, precision, use_8bit_adam: false }
}

/// The graph as this pass gets it.
fn before(context: &Context<'_>) -> Graph {
    let mut graph = parse(TEXT).unwrap();
    let passes = PIPELINE.iter().skip_while(|p| p.name != "differentiate").take_while(|p| p.name != "rematerialise");
    passes.for_each(|pass| (pass.run)(&mut graph, context).unwrap());
    graph
}

#[test]
fn a_flow_that_grows_ends_in_the_same_cuts() {
    let graph = before(&context(&Chosen::default(), Residency::Resident));
    let plain = Plain::new(&graph);
    let mut ids: Vec<NodeId> = plain.costs.keys().copied().filter(|id| !graph.node(*id).op.is_view()).collect();
    ids.sort_unstable();
    let mut grown = network(&plain);
    let mut cuts = HashSet::from([grown.behind()]);
    for fixed in 1..=ids.len() {
        fix(&plain, &mut grown, ids[fixed - 1]);
        let mut fresh = network(&plain);
        ids[..fixed].iter().for_each(|id| fix(&plain, &mut fresh, *id));
        let again = grown.behind();
        assert_eq!(again, fresh.behind());
        cuts.insert(again);
    }
    assert!(cuts.len() > 2, "what may be repeated makes no difference");
}

#[test]
fn an_estimate_for_single_precision_is_what_is_alive() {
    for weights in [Residency::Resident, Residency::Streamed] {
        let chosen = Chosen::default();
        let context = context(&chosen, weights);
        let graph = before(&context);
        let plain = Plain::new(&graph);
        let nothing = Candidate::new(&plain, vec![false; graph.values().count()]);
        let all = Candidate::new(&plain, network(&plain).behind());
        let mut footprint = Footprint::new(&plain, &context).unwrap();
        let mut found = Vec::new();
        for candidate in candidates(&plain).iter().chain([&nothing, &all]) {
            let mut graph = plain.repeated(&candidate.again, &candidate.order).unwrap();
            let stream = PIPELINE.iter().find(|p| p.name == "stream").unwrap();
            (stream.run)(&mut graph, &context).unwrap();
            let mut buffers = Buffers::new(sparse_numbers(&graph));
            let loss: Vec<_> = graph.returns.iter().filter(|r| r.0 == "loss").cloned().collect();
            let mut program = lower(&graph, "train", &[Block::Forward, Block::Backward], &loss, &mut buffers);
            place(&mut program, &mut buffers.list);
            assert_eq!(footprint.live(&candidate.again, &candidate.order), program.peak.live_bytes);
            found.push(program.peak.live_bytes);
        }
        found.sort_unstable();
        found.dedup();
        assert!(found.len() > 1, "all ways take the same memory");
    }
}
