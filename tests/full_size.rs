//! The UNet of Stable Diffusion 1.5 at its full size, against figures counted by hand from its shapes: what a forward computes, what
//! is kept for the backward, how close to the bytes alive the placement comes. `models/exports/full_size.py` makes the file; its
//! weights are a file without content.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use sara_compiler::Error;
use sara_compiler::compile::{Residency, TrainOptions, canonical, compile_chosen, compile_training, unobserved};
use sara_compiler::import::{Binding, Model};
use sara_compiler::select::{self, Amount, Chosen, Pick};
use sara_runtime::executor::{Site, memory};
use sara_runtime::plan::{Part, Plan, Program};
use std::collections::BTreeMap;
use std::fs::File;
use tempfile::TempDir;

/// Bytes of `model.onnx_data`.
const WEIGHTS: u64 = 3_437_361_920;
/// Elements of all weights: 859,520,964, of which the exporter writes equal tensors once.
const ELEMENTS: u64 = 859_344_560;

fn model(folder: &TempDir) -> Model {
    let archive = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/full_size/sd15_unet.zip")).unwrap();
    zip::ZipArchive::new(archive).unwrap().extract(folder.path()).unwrap();
    File::create(folder.path().join("model.onnx_data")).unwrap().set_len(WEIGHTS).unwrap();
    Model::open(&folder.path().join("model.onnx")).unwrap()
}

fn binding() -> Binding {
    let dims = [("batch", 1), ("height", 64), ("width", 64), ("seq", 77)];
    Binding { dims: dims.map(|(name, n)| (name.to_owned(), n)).into(), ..Binding::default() }
}

fn compiled(model: &Model, limit: Option<u64>) -> Plan {
    let select = select::Options { pick: Pick::Random(0), ..select::Options::default() };
    let amount = Amount::Density(0.0058);
    let options = TrainOptions { memory_limit: limit, ..TrainOptions::new(binding(), select, amount) };
    compile_training(model, &options, &mut unobserved()).unwrap_or_else(|e| panic!("{e}"))
}

fn program<'p>(plan: &'p Plan, name: &str) -> &'p Program {
    plan.programs.iter().find(|p| p.name == name).unwrap()
}

/// Kept elements in millions.
fn kept(plan: &Plan) -> f64 {
    plan.kept_bytes(program(plan, "train")) as f64 / 4e6
}

/// Operations in billions.
fn gigaflops(plan: &Plan, name: &str, part: Part) -> f64 {
    plan.flops(program(plan, name), part) as f64 / 1e9
}

#[track_caller]
fn within(found: f64, wanted: f64, share: f64) {
    assert!((found / wanted - 1.0).abs() <= share, "{found} is not within {share} of {wanted}");
}

#[test]
fn sd15_takes_what_its_shapes_say() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder);
    let plan = compiled(&model, None);
    assert_eq!(plan.weights.iter().map(|w| w.shape.iter().product::<u64>()).sum::<u64>(), ELEMENTS);
    within(gigaflops(&plan, "forward", Part::Forward), 803.3, 0.005);
    within(gigaflops(&plan, "train", Part::Forward), 803.3, 0.005);
    // Inputs of normalisations, queries, keys, values and results of attention, and what else products read.
    within(kept(&plan), 255.3, 0.02);
    assert!(gigaflops(&plan, "train", Part::Again) < 1.0);
    let train = program(&plan, "train");
    within(train.arena_bytes as f64, train.peak.live_bytes as f64, 0.02);
    // Without feed-forward projections, queries, keys and values, and no further back: 116.7 million elements for 153.5 GF.
    let most = plan_bytes(&plan) - ((255.3 - 116.7) * 4e6) as u64;
    let small = compiled(&model, Some(most));
    assert!(plan_bytes(&small) <= most);
    assert!(kept(&small) <= 1.02 * 116.7, "{} million elements", kept(&small));
    assert!(gigaflops(&small, "train", Part::Again) <= 1.2 * 153.5, "{} GF", gigaflops(&small, "train", Part::Again));
}

#[test]
fn the_least_memory_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder);
    let options = |limit| TrainOptions {
        memory_limit: Some(limit),
        weights: Residency::Streamed,
        ..TrainOptions::new(binding(), select::Options::default(), Amount::Density(0.0))
    };
    let within = |limit: u64| {
        let options = options(limit);
        let graph = canonical(&model, &options.binding, &mut unobserved()).unwrap();
        // Every weight trains a thousandth of its entries, as if it had been read.
        let eligible = select::eligible(&graph, &options.select);
        let index: BTreeMap<usize, Vec<u32>> =
            eligible.into_iter().map(|w| (w, (0..graph.weights[w].len() as u32).step_by(1000).collect())).collect();
        let base = index.keys().map(|w| (*w, (0.0, "0".repeat(64)))).collect();
        let chosen = Chosen { index, base, ..Chosen::default() };
        compile_chosen(&model, &graph, &chosen, &options, &mut unobserved())
    };
    let least = |limit: u64| match within(limit) {
        Err(Error::Memory { least, .. }) => least,
        other => panic!("{limit} bytes are enough: {:?}", other.map(|plan| plan.arena_bytes)),
    };
    let bytes = least(1);
    assert_eq!(least(bytes - 1), bytes);
    let plan = within(bytes).unwrap();
    assert_eq!(plan_bytes(&plan), bytes);
    let roomy = within(2 * bytes).unwrap();
    assert!(gigaflops(&roomy, "train", Part::Again) < gigaflops(&plan, "train", Part::Again));
}

fn plan_bytes(plan: &Plan) -> u64 {
    memory(plan, Site::Cpu { threads: 1 }).total()
}
