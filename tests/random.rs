//! Random models: as imported, after each pass and each rule, as a placed plan in poisoned memory, differentiated, and in ONNX
//! Runtime. `SARA_RANDOM_GRAPHS` says how many.
//!
//! What fails is shrunk and written to `random/found` as a recipe, which runs forever after.

mod common;

#[path = "ir/agree.rs"]
mod agree;
#[path = "onnx/case.rs"]
mod case;
#[path = "random/generator.rs"]
mod generator;
#[path = "onnx/gradient.rs"]
mod gradient;
#[path = "onnx/outcome.rs"]
mod outcome;

use agree::{agree, every_third};
use case::Case;
use generator::{Random, Step, generate};
use outcome::Outcome;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use sara_compiler::compile::{Precision, Residency, canonical, compile_forward, unobserved};
use sara_compiler::import::{Model, import};
use sara_compiler::ir::{Graph, rewrite};
use sara_compiler::loss::Loss;
use sara_compiler::passes::canonicalise::RULES;
use sara_compiler::passes::{Context, PIPELINE, apply};
use sara_compiler::select::Chosen;
use sara_runtime::executor::Executor;
use sara_runtime::oracle::{Array, Oracle, SessionOptions};
use sara_runtime::tensor::Tensor;
use std::collections::HashMap;
use std::path::Path;

/// Random models in an ordinary run.
const GRAPHS: u32 = 1000;

/// Everything that is known about a model, compared.
fn check(recipe: &[Step], oracle: &Oracle) -> Result<(), String> {
    let Some(random) = generate(recipe) else { return Ok(()) };
    let case = with_outputs(&random, oracle)?;
    match outcome::of(&case) {
        Outcome::Pass(_) => {}
        other => return Err(other.to_string()),
    }
    let (proto, data) = outcome::split(&case, &Default::default());
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, common::bytes(&proto)).map_err(|e| e.to_string())?;
    let (model, binding) = outcome::open_at(&path, &data)?;
    let imported = import(&model, &binding).map_err(|e| e.to_string())?;
    let nothing = Chosen::default();
    for name in ["fold", "canonicalise"] {
        let mut graph = imported.clone();
        pass(&mut graph, name, &nothing)?;
        same(&case, &model, &graph, &data).map_err(|e| format!("after `{name}` alone: {e}"))?;
    }
    for (name, rule) in RULES {
        let mut graph = imported.clone();
        rewrite(&mut graph, *rule).map_err(|e| e.to_string())?;
        same(&case, &model, &graph, &data).map_err(|e| format!("after the rule `{name}` alone: {e}"))?;
    }
    let graph = canonical(&model, &binding, &mut unobserved()).map_err(|e| e.to_string())?;
    placed(&model, &graph, &path, &data)?;
    trained(&graph)
}

fn pass(graph: &mut Graph, name: &str, chosen: &Chosen) -> Result<(), String> {
    let pass = PIPELINE.iter().find(|p| p.name == name).ok_or_else(|| format!("there is no pass `{name}`"))?;
    apply(
        pass,
        graph,
        &Context {
            selection: chosen,
            loss: Loss::default(),
            limit: None,
            weights: Residency::Resident,
            precision: Precision::Single,
            use_8bit_adam: false,
        },
    )
    .map_err(|e| format!("{name}: {e}"))
}

fn same(case: &Case, model: &Model, graph: &Graph, data: &HashMap<String, Array>) -> Result<(), String> {
    outcome::check(case, model, graph, data)
}

/// The model with what ONNX Runtime computes, without optimising the graph.
fn with_outputs(random: &Random, oracle: &Oracle) -> Result<Case, String> {
    let options = SessionOptions { intra_threads: 1, ..SessionOptions::default() };
    let bytes = common::bytes(&random.model);
    let mut session = oracle.session_from_bytes(&bytes, &std::env::temp_dir(), &options).map_err(|e| e.to_string())?;
    let arrays: Vec<(String, Array)> =
        random.inputs.iter().filter_map(|(n, t)| Some((n.clone(), case::array(t)?))).collect();
    let outputs = session.run(&arrays).map_err(|e| e.to_string())?;
    Ok(Case {
        name: "random".to_owned(),
        model: random.model.clone(),
        inputs: random.inputs.iter().map(|(n, t)| (n.clone(), Some(t.clone()))).collect(),
        outputs: outputs.into_iter().map(|o| Some(o.1)).collect(),
        rtol: 1e-5,
        atol: random.tolerance,
    })
}

/// A plan in poisoned memory gives the bits of the graph, twice, and is the same plan when it is made again.
fn placed(model: &Model, graph: &Graph, path: &Path, data: &HashMap<String, Array>) -> Result<(), String> {
    let (_, binding) = outcome::open_at(path, data)?;
    let plan = || compile_forward(model, &binding, &mut unobserved()).map_err(|e| e.to_string());
    let first = plan()?;
    if first != plan()? {
        return Err("the same model gives another plan".to_owned());
    }
    let expected = outcome::execute_graph(model, graph, data)?;
    let mut executor = Executor::new(first, 2, Some(path)).map_err(|e| e.to_string())?;
    executor.poison(true);
    for round in 0..2 {
        for (name, array) in data {
            let tensor: Tensor = array.to_tensor().ok_or("an input is no tensor")?;
            let mut ports = executor.plan().programs.iter().flat_map(|p| &p.inputs);
            if ports.any(|p| p.name == *name) {
                executor.set_input("forward", name, &tensor).map_err(|e| e.to_string())?;
            }
        }
        executor.run("forward").map_err(|e| e.to_string())?;
        for (name, _) in &graph.returns {
            let found = executor.output("forward", name).map_err(|e| e.to_string())?;
            if found.bytes() != expected[name] {
                return Err(format!("the plan computes another `{name}` than the graph, in round {round}"));
            }
        }
    }
    Ok(())
}

/// Masked gradients are the entries of the dense ones.
fn trained(graph: &Graph) -> Result<(), String> {
    // What trains must matter to the first result.
    let mut dense = graph.clone();
    dense.returns.truncate(1);
    dense.remove_dead();
    let chosen = every_third(&dense);
    if chosen.index.is_empty() || !dense.ty(dense.returns[0].1).dtype.is_float() {
        return Ok(());
    }
    for name in ["sparsify", "differentiate", "update"] {
        pass(&mut dense, name, &chosen)?;
    }
    let mut masked = dense.clone();
    pass(&mut masked, "fuse", &chosen)?;
    agree(&dense, &masked).map_err(|e| format!("after `fuse`: {e}"))
}

fn recipe() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 1..12)
}

fn text(recipe: &[Step]) -> String {
    recipe.iter().map(|s| s.map(|v| v.to_string()).join(" ") + "\n").collect()
}

/// The nodes of a model, for people.
fn listing(random: &Random) -> String {
    let line = |n: &onnx_protobuf::NodeProto| {
        let attrs: Vec<String> = n
            .attribute
            .iter()
            .map(|a| format!("{}={}{:?}{}", a.name, a.i, a.ints, String::from_utf8_lossy(&a.s)))
            .collect();
        format!("{} = {}({}) {}\n", n.output.join(", "), n.op_type, n.input.join(", "), attrs.join(" "))
    };
    random.model.graph.node.iter().map(line).collect()
}

#[test]
fn random_models_are_computed_alike_everywhere() {
    let oracle = Oracle::open_or_fetch().expect("ONNX Runtime is needed for this test");
    let cases = std::env::var("SARA_RANDOM_GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(GRAPHS);
    let config = Config { cases, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&recipe(), |recipe| check(&recipe, &oracle).map_err(TestCaseError::fail));
    if let Err(TestError::Fail(reason, recipe)) = &result {
        let name = recipe.iter().flatten().fold(17u64, |h, v| h.wrapping_mul(31).wrapping_add(u64::from(*v)));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random/found");
        std::fs::create_dir_all(&folder).expect("the folder of what was found");
        std::fs::write(folder.join(format!("{name:016x}.txt")), text(recipe)).expect("a place for what was found");
        panic!("{reason}\n{}", generate(recipe).map_or(String::new(), |r| listing(&r)));
    }
    result.expect("random models");
}

#[test]
fn what_was_found_stays_right() {
    let oracle = Oracle::open_or_fetch().expect("ONNX Runtime is needed for this test");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random/found");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let lines = std::fs::read_to_string(entry.path()).expect("a recipe");
        let number = |t: &str| t.parse().expect("a recipe holds numbers");
        let step = |l: &str| Step::try_from(l.split(' ').map(number).collect::<Vec<u16>>()).expect("four numbers");
        let recipe: Vec<Step> = lines.lines().map(step).collect();
        check(&recipe, &oracle).unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
    }
}
