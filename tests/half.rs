//! Training with weights and kept values in half precision.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod common;

use common::{Dim, Tensor as Array, bytes, declare, graph, model, node};
use sara::compiler::compile::{Precision, Residency, TrainOptions, compile_training, unobserved};
use sara::compiler::import::{Binding, Model};
use sara::compiler::loss::TARGET;
use sara::compiler::select::{self, Amount};
use sara::kernels::DType;
use sara::runtime::checkpoint;
use sara::runtime::executor::{Executor, Site, memory};
use sara::runtime::oracle::OracleType::F16;
use sara::runtime::plan::{Plan, Stored};
use sara::runtime::tensor::{Tensor, Tensors, read_safetensors, write_safetensors};
use sara::runtime::train::{self, Trainer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const STEPS: usize = 8;

fn reference(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

fn compile(path: &Path, binding: Binding, amount: Amount, (weights, precision): (Residency, Precision)) -> Plan {
    let options = TrainOptions::new(binding, select::Options::default(), amount);
    let model = Model::open(path).unwrap();
    compile_training(&model, &TrainOptions { weights, precision, ..options }, &mut unobserved()).unwrap()
}

/// A bundled model's plan and the batches of its trajectory.
fn dit(how: (Residency, Precision)) -> (Plan, Vec<Tensors>) {
    let (all, _) = read_safetensors(&reference("trajectory/dit.dynamo.batches.safetensors")).unwrap();
    let shapes = all.iter().filter(|(n, _)| *n != TARGET).map(|(n, t)| (n.clone(), t.shape()[1..].to_vec()));
    let binding = Binding { shapes: shapes.collect(), ..Binding::default() };
    let plan = compile(&reference("dit.dynamo.onnx"), binding, Amount::Threshold(5e-3), how);
    let batch = |i| all.iter().map(|(n, t)| (n.clone(), t.at(i).unwrap())).collect();
    (plan, (0..STEPS).map(batch).collect())
}

fn trainer(plan: &Plan, threads: usize) -> Trainer {
    let options = train::TrainOptions {
        max_train_steps: STEPS as u64,
        threshold: plan.selection.threshold,
        learning_rate: 1e-3,
        progressive_iter: Some(STEPS as u64 / 2),
        ..train::TrainOptions::default()
    };
    Trainer::new(Executor::new(plan.clone(), threads, None).unwrap(), options).unwrap()
}

/// Losses, and the values of what trains, to the bit.
fn run(trainer: &mut Trainer, batches: &[Tensors]) -> (Vec<u64>, Vec<u32>) {
    let losses = batches.iter().map(|b| trainer.step(std::slice::from_ref(b)).unwrap().loss.to_bits()).collect();
    let values = (0..trainer.executor.plan().sparse.len()).flat_map(|s| trainer.executor.values(s));
    (losses, values.map(f32::to_bits).collect())
}

#[test]
fn a_run_is_the_same_wherever_weights_are_and_on_any_number_of_threads() {
    for precision in [Precision::Bf16, Precision::Fp16] {
        let (resident, batches) = dit((Residency::Resident, precision));
        let (streamed, _) = dit((Residency::Streamed, precision));
        let half = precision.half().unwrap();
        for plan in [&resident, &streamed] {
            assert!(plan.buffers.iter().any(|b| b.dtype == half));
        }
        let expected = run(&mut trainer(&resident, 1), &batches);
        assert!(run(&mut trainer(&resident, 2), &batches) == expected, "{half}: one and two threads differ");
        assert!(run(&mut trainer(&streamed, 2), &batches) == expected, "{half}: streamed weights differ");
    }
}

#[test]
fn a_resumed_run_is_the_unbroken_run() {
    for precision in [Precision::Bf16, Precision::Fp16] {
        let (plan, batches) = dit((Residency::Resident, precision));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.plan");
        plan.save(&path).unwrap();
        assert!(Plan::load(&path).unwrap() == plan, "the plan is not read back as it was");
        let mut straight = trainer(&plan, 2);
        let expected = run(&mut straight, &batches);
        assert!(straight.trainable() < plan.selection.trainable, "nothing was left behind");
        for at in [1, STEPS / 2 + 1] {
            let mut first = trainer(&plan, 2);
            run(&mut first, &batches[..at]);
            let mut second = trainer(&plan, 1);
            checkpoint::load(&mut second, &checkpoint::save(&first, folder.path(), 2).unwrap()).unwrap();
            let found = run(&mut second, &batches[at..]);
            assert!(found == (expected.0[at..].to_vec(), expected.1.clone()), "{precision:?}: from step {at}");
        }
    }
}

/// Numbers in -1..1.
fn noise(len: usize, seed: u64, scale: f64) -> Vec<f64> {
    common::noise(seed, len).into_iter().map(|v| v * scale).collect()
}

/// Writes a model in fp16: two linear layers with SiLU between them, whose results are `factor` times as large as usual.
fn write(path: &Path, factor: f64) {
    let dims = |shape: &[usize]| shape.iter().map(|d| Dim::Fixed(*d)).collect::<Vec<_>>();
    let weights = vec![
        Array::new(F16, &[96, 128], &noise(96 * 128, 1, 0.2)).proto("v"),
        Array::new(F16, &[128, 64], &noise(128 * 64, 2, 0.2)).proto("w"),
        Array::new(F16, &[], &[factor]).proto("factor"),
    ];
    let nodes = vec![
        node("MatMul", &["x", "v"], &["narrow"], &[]),
        node("Mul", &["narrow", "factor"], &["h"], &[]),
        node("Sigmoid", &["h"], &["gate"], &[]),
        node("Mul", &["h", "gate"], &["s"], &[]),
        node("MatMul", &["s", "w"], &["y"], &[]),
    ];
    let graph = graph(nodes, vec![declare("x", F16, &dims(&[64, 96]))], weights, &["y"]);
    std::fs::write(path, bytes(&model(18, graph))).unwrap();
}

/// Batches of such a model.
fn batches(scale: f64) -> Vec<Tensors> {
    let tensor = |shape: &[usize], seed, scale| {
        let values = noise(shape.iter().product(), seed, scale);
        Tensor::f32(shape, values.into_iter().map(|v| v as f32).collect()).unwrap()
    };
    let batch = |i| [("x", tensor(&[64, 96], i, 1.0)), (TARGET, tensor(&[64, 64], i + 100, scale))];
    (0..STEPS as u64).map(|i| batch(i + 3).map(|(n, t)| (n.to_owned(), t)).into_iter().collect()).collect()
}

fn weight_bytes(plan: &Plan) -> u64 {
    memory(plan, Site::Cpu { threads: 1 }).weights
}

#[test]
fn weights_of_an_fp16_file_are_kept_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    write(&path, 1.0);
    let plan = |precision| compile(&path, Binding::default(), Amount::Density(0.3), (Residency::Resident, precision));
    let single = plan(Precision::Single);
    let loss = |plan: &Plan| trainer(plan, 1).step(&batches(1.0)[..1]).unwrap().loss;
    let off = |plan: &Plan| (loss(plan) / loss(&single) - 1.0).abs();
    let (bf16, fp16) = (plan(Precision::Bf16), plan(Precision::Fp16));
    println!("fp16 {:.1e}, bf16 {:.1e}", off(&fp16), off(&bf16));
    assert!(off(&fp16) < 1e-6 && off(&bf16) > 1e-5, "fp16 {:e}, bf16 {:e}", off(&fp16), off(&bf16));
    let bytes = [&single, &fp16].map(weight_bytes);
    // The factor stays in single precision.
    assert!(bytes[1] <= bytes[0] / 2 + 64, "{bytes:?}");
}

#[test]
fn an_export_of_an_fp16_file_differs_in_the_trained_elements_only() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.onnx"), 1.0);
    let all = |name: &str, shape: &[usize]| {
        let rows = batches(1.0).iter().flat_map(|b| b[name].to_f64()).map(|v| v as f32).collect();
        (name.to_owned(), Tensor::f32(&[&[STEPS], shape].concat(), rows).unwrap())
    };
    let tensors = [all("x", &[64, 96]), all(TARGET, &[64, 64])].into_iter().collect();
    write_safetensors(&folder.path().join("batches.safetensors"), &tensors, None).unwrap();
    let sara = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_sara")).current_dir(folder.path()).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    sara(&["compile", "model.onnx", "-o", "model.plan", "--density", "20%", "--mixed-precision", "fp16"]);
    let train = ["train", "model.plan", "--batches", "batches.safetensors", "--output-dir", "run"];
    sara(&[&train[..], &["--learning-rate", "1e-2", "--threads", "2"]].concat());
    sara(&["export", "run", "-o", "out/tuned.onnx"]);
    let plan = Plan::load(&folder.path().join("model.plan")).unwrap();
    assert!(plan.buffers.iter().any(|b| b.dtype == DType::F16));
    let [before, after] = ["model.onnx", "out/tuned.onnx"].map(|f| std::fs::read(folder.path().join(f)).unwrap());
    assert_eq!(before.len(), after.len());
    let mut trained = BTreeSet::new();
    for sparse in &plan.sparse {
        let weight = &plan.weights[sparse.weight as usize];
        assert_eq!(weight.stored, Stored::F16);
        trained.extend(sparse.index.iter().map(|i| weight.offset as usize + 2 * *i as usize));
    }
    let changed: BTreeSet<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
    let alien = changed.iter().find(|at| !trained.contains(at) && !trained.contains(&(**at - 1)));
    assert_eq!(alien, None, "a byte changed that belongs to no trained element");
    let elements = trained.iter().filter(|at| changed.contains(at) || changed.contains(&(**at + 1))).count();
    assert!(elements > trained.len() * 9 / 10, "{elements} of {} changed", trained.len());
}

/// What exceeds 65504 is kept as that: the loss is exact, gradients are finite, and only those of such values are inexact.
#[test]
fn a_kept_value_beyond_the_range_of_fp16_does_not_become_infinite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    write(&path, 60_000.0);
    let batches = batches(1e5);
    let step = |precision| {
        let plan = compile(&path, Binding::default(), Amount::Density(0.3), (Residency::Resident, precision));
        let metrics = trainer(&plan, 1).step(&batches[..1]).unwrap();
        (metrics.loss, metrics.grad_norm)
    };
    let (single, fp16) = (step(Precision::Single), step(Precision::Fp16));
    println!("{single:?} and {fp16:?}");
    assert!((fp16.0 / single.0 - 1.0).abs() < 1e-6, "{single:?} and {fp16:?}");
    assert!(fp16.1.is_finite() && fp16.1 < single.1, "nothing is beyond the range: {single:?} and {fp16:?}");
}
