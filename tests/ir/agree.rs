//! Two graphs on the same data.

use sara_compiler::evaluate::execute;
use sara_compiler::ir::{Block, Def, Graph, Payload, Type, ValueId};
use sara_compiler::select::{self, Chosen};
use sara_kernels::{DType, hyper};
use std::collections::BTreeMap;

/// What sparsify selects where weights have no data: every third entry of each eligible weight.
pub(crate) fn every_third(graph: &Graph) -> Chosen {
    let index = select::eligible(graph, &select::Options::default())
        .into_iter()
        .map(|w| (w, (0..graph.weights[w].len() as u32).step_by(3).collect()));
    Chosen { index: index.collect(), ..Chosen::default() }
}

/// Executes both graphs on the same data. What both give back must be equal up to the rounding of the coarsest type in either.
pub(crate) fn agree(before: &Graph, after: &Graph) -> Result<(), String> {
    let has = |dtype| after.values().any(|(_, v)| v.ty.dtype == dtype);
    let tolerance = if has(DType::Bf16) {
        2e-2
    } else if has(DType::F16) {
        2e-3
    } else {
        1e-5
    };
    let (a, b) = (outcome(before)?, outcome(after)?);
    let mut compared = 0;
    for (name, x) in &a {
        let Some(y) = b.get(name) else { continue };
        compared += 1;
        let scale = x.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let far = x.iter().zip(y).position(|(x, y)| (x - y).abs() > tolerance * scale || x.is_nan());
        if x.len() != y.len() || far.is_some() {
            return Err(format!("`{name}` changed: {x:?} became {y:?}"));
        }
    }
    if compared == 0 { Err("the two graphs have no result in common".into()) } else { Ok(()) }
}

/// Returns and accumulated gradients of a run over forward and backward.
fn outcome(graph: &Graph) -> Result<BTreeMap<String, Vec<f64>>, String> {
    let results =
        execute(graph, &[Block::Forward, Block::Backward], |id| Some(data(graph, id))).map_err(|e| e.to_string())?;
    let types: BTreeMap<&str, DType> = graph
        .values()
        .map(|(_, v)| (v.name.as_str(), v.ty.dtype))
        .chain(graph.returns.iter().map(|(n, v)| (n.as_str(), graph.ty(*v).dtype)))
        .collect();
    Ok(results
        .into_iter()
        .map(|(name, bytes)| {
            let values = match types[name.as_str()] {
                DType::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(&bytes).into_iter().map(f64::from).collect(),
                DType::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(&bytes),
                DType::I64 => bytemuck::pod_collect_to_vec::<u8, i64>(&bytes).into_iter().map(|v| v as f64).collect(),
                _ => bytes.into_iter().map(f64::from).collect(),
            };
            (name, values)
        })
        .collect())
}

/// Data that depends on the value's name and type only, so that both graphs see the same.
fn data(graph: &Graph, id: ValueId) -> Vec<u8> {
    let value = graph.value(id);
    match &value.def {
        Def::Param(index) => {
            let Def::Index(weight, _) = graph.value(*index).def else { return Vec::new() };
            let w: Vec<f32> = bytemuck::pod_collect_to_vec(&data(graph, weight));
            let p: Vec<f32> = positions(graph, *index).into_iter().map(|i| w[i as usize]).collect();
            bytemuck::cast_slice(&p).to_vec()
        }
        Def::Index(..) => bytemuck::cast_slice(&positions(graph, id)).to_vec(),
        Def::File(weight) => data(graph, *weight),
        Def::Hyper => {
            let mut h = [0f32; hyper::LEN];
            h[hyper::GRADIENT_SCALE] = 1.0;
            bytemuck::cast_slice(&h).to_vec()
        }
        Def::State(..) => vec![0; value.ty.bytes()],
        Def::Weight(w) if graph.uniform.contains_key(w) => {
            bytemuck::cast_slice(&vec![graph.uniform[w] as f32; value.ty.len()]).to_vec()
        }
        _ => noise(&value.name, &value.ty),
    }
}

fn positions(graph: &Graph, index: ValueId) -> Vec<u32> {
    match &graph.value(index).def {
        Def::Index(_, payload @ Payload::Known(_)) => payload.elements().unwrap_or_default(),
        _ => (0..graph.ty(index).len() as u32).collect(),
    }
}

fn noise(name: &str, ty: &Type) -> Vec<u8> {
    let mut state = name.bytes().fold(1u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)) | 1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64 * 2.0 - 1.0
    };
    let values: Vec<f64> = (0..ty.len()).map(|_| next()).collect();
    match ty.dtype {
        DType::Bf16 => values.iter().flat_map(|v| half::bf16::from_f64(*v).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| half::f16::from_f64(*v).to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
        DType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => values.iter().flat_map(|v| i64::from(*v > 0.0).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| u32::from(*v > 0.0).to_le_bytes()).take(ty.bytes()).collect(),
    }
}
