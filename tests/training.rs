//! Training as a whole: what resuming, accumulation, clipping, re-selection and the low-rank term promise.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

#[path = "training/beside.rs"]
mod beside;
mod common;
#[path = "training/low_rank.rs"]
mod low_rank;
#[path = "training/refused.rs"]
mod refused;
#[path = "training/reselection.rs"]
mod reselection;
#[path = "training/resume.rs"]
mod resume;

use nalgebra::DMatrix;
use prost::Message;
use sara::compiler::compile::{Precision, Residency, TrainOptions, compile_training, unobserved};
use sara::compiler::import::proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetId, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto, data_type,
};
use sara::compiler::import::{Binding, Model};
use sara::compiler::loss::TARGET;
use sara::compiler::select::{self, Amount};
use sara::kernels::cuda::MatmulPrecision;
use sara::kernels::hyper;
use sara::runtime::adapter;
use sara::runtime::checkpoint;
use sara::runtime::executor::{Executor, Moments, Site, SparseState, memory};
use sara::runtime::plan::{Plan, Stored};
use sara::runtime::rng::CounterRng;
use sara::runtime::schedule::Schedule;
use sara::runtime::source::Source;
use sara::runtime::tensor::{Tensor, Tensors, read_safetensors};
use sara::runtime::train::{self, Trainer};
use std::path::{Path, PathBuf};

fn reference(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

/// Normal numbers times `scale`.
fn noise(len: usize, seed: u64, scale: f64) -> Vec<f32> {
    let mut rng = CounterRng::new(seed, 99);
    (0..len).map(|_| (rng.normal() * scale) as f32).collect()
}

/// A matrix of the model that [`chain`] writes.
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn random(rows: usize, cols: usize, seed: u64) -> Matrix {
        Matrix { rows, cols, values: noise(rows * cols, seed, 0.05) }
    }
}

/// Writes a model `y = x W0`, or `y = tanh(tanh(x W0) W1) W2` and so on, with an open batch.
fn chain(path: &Path, matrices: &[Matrix]) {
    let port = |name: &str, width: usize| {
        let batch = DimensionProto { dim_param: Some("batch".into()), ..DimensionProto::default() };
        let width = DimensionProto { dim_value: Some(width as i64), ..DimensionProto::default() };
        let shape = TensorShapeProto { dim: vec![batch, width] };
        let tensor = TensorTypeProto { elem_type: data_type::FLOAT, shape: Some(shape) };
        ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
    };
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        input: inputs.iter().map(|i| (*i).into()).collect(),
        output: vec![output.into()],
        name: format!("/{output}/{op}"),
        op_type: op.into(),
        ..NodeProto::default()
    };
    let mut graph = GraphProto { name: "chain".into(), ..GraphProto::default() };
    let mut from = "x".to_owned();
    for (i, matrix) in matrices.iter().enumerate() {
        let (weight, product) = (format!("w{i}"), format!("h{i}"));
        graph.initializer.push(TensorProto {
            dims: vec![matrix.rows as i64, matrix.cols as i64],
            data_type: data_type::FLOAT,
            name: weight.clone(),
            raw_data: matrix.values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into(),
            ..TensorProto::default()
        });
        let last = i + 1 == matrices.len();
        graph.node.push(node("MatMul", &[&from, &weight], if last { "y" } else { &product }));
        from = format!("a{i}");
        if !last {
            graph.node.push(node("Tanh", &[&product], &from));
        }
    }
    graph.input = vec![port("x", matrices[0].rows)];
    graph.output = vec![port("y", matrices[matrices.len() - 1].cols)];
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetId { domain: String::new(), version: 17 }],
        ..ModelProto::default()
    };
    std::fs::write(path, model.encode_to_vec()).unwrap();
}

/// Three matrices that all take part in the low-rank term.
fn three() -> Vec<Matrix> {
    vec![Matrix::random(70, 96, 1), Matrix::random(96, 80, 2), Matrix::random(80, 66, 3)]
}

fn compile(model: &Path, binding: Binding, amount: Amount) -> Plan {
    let model = Model::open(model).unwrap();
    let options = TrainOptions::new(binding, select::Options::default(), amount);
    compile_training(&model, &options, &mut unobserved()).unwrap()
}

/// A plan of `matrices`, for some samples at once. The model lies in `folder`.
fn chain_plan(folder: &Path, matrices: &[Matrix], batch: usize, amount: Amount) -> Plan {
    let path = folder.join("chain.onnx");
    chain(&path, matrices);
    let dims = [("batch".to_owned(), batch)].into();
    compile(&path, Binding { dims, ..Binding::default() }, amount)
}

fn trainer(plan: &Plan, threads: usize, options: &train::TrainOptions) -> Trainer {
    let mut executor = Executor::new(plan.clone(), threads, None).unwrap();
    executor.poison(true);
    Trainer::new(executor, options.clone()).unwrap()
}

/// Options under which most entries move a little in each step.
fn options() -> train::TrainOptions {
    train::TrainOptions {
        learning_rate: 1e-3,
        lr_scheduler: Schedule::Constant,
        max_train_steps: 6,
        lambda_rank: 0.0,
        ..train::TrainOptions::default()
    }
}

/// Normal numbers for every input of a training step.
fn data(plan: &Plan, seed: u64) -> Tensors {
    let inputs = plan.program("train").unwrap().inputs.iter().enumerate();
    inputs
        .map(|(i, port)| {
            let shape: Vec<usize> = port.shape.iter().map(|d| *d as usize).collect();
            let values = noise(shape.iter().product(), seed * 100 + i as u64, 1.0);
            (port.name.clone(), Tensor::f32(&shape, values).unwrap())
        })
        .collect()
}

/// Everything that training changes, bit by bit.
#[derive(PartialEq)]
struct Snapshot {
    step: u64,
    weights: Vec<Vec<u32>>,
    index: Vec<Vec<u32>>,
    state: Vec<[Vec<u32>; 4]>,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn weights(executor: &Executor) -> Vec<Vec<u32>> {
    let all = executor.plan().weights.iter().enumerate();
    all.filter(|(_, w)| w.stored == Stored::Plain(sara::kernels::DType::F32))
        .map(|(i, _)| bits(executor.weight(i as u32).unwrap_or_default()))
        .collect()
}

/// State of sparse weight `s`: values, accumulated gradient, first and second moment.
fn state(executor: &Executor, s: usize) -> [Vec<f32>; 4] {
    let ([values, gradient], [first, second]) = (executor.state(s), executor.moments(s).decoded());
    [values.to_vec(), gradient.to_vec(), first, second]
}

fn snapshot(trainer: &Trainer) -> Snapshot {
    let e = &trainer.executor;
    let sparse = 0..e.plan().sparse.len();
    Snapshot {
        step: trainer.step,
        weights: weights(e),
        index: sparse.clone().map(|s| e.indices(s).to_vec()).collect(),
        state: sparse.map(|s| state(e, s).map(|field| bits(&field))).collect(),
    }
}

/// A bundled transformer with its batches.
fn dit() -> (Plan, Vec<Tensors>) {
    dit_with(Residency::Resident)
}

fn dit_with(weights: Residency) -> (Plan, Vec<Tensors>) {
    let (all, _) = read_safetensors(&reference("trajectory/dit.dynamo.batches.safetensors")).unwrap();
    let shapes = all.iter().filter(|(n, _)| *n != TARGET).map(|(n, t)| (n.clone(), t.shape()[1..].to_vec()));
    let binding = Binding { shapes: shapes.collect(), ..Binding::default() };
    let model = Model::open(&reference("dit.dynamo.onnx")).unwrap();
    let options = TrainOptions::new(binding, select::Options::default(), Amount::Threshold(5e-3));
    let plan = compile_training(&model, &TrainOptions { weights, ..options }, &mut unobserved()).unwrap();
    let steps = all[TARGET].shape()[0];
    let batch = |i| all.iter().map(|(n, t)| (n.clone(), t.at(i).unwrap())).collect();
    (plan, (0..steps).map(batch).collect())
}

/// The micro-batches of a step.
fn micro(batches: &[Tensors], options: &train::TrainOptions, step: u64) -> Vec<Tensors> {
    let n = options.gradient_accumulation_steps;
    (step * n..(step + 1) * n).map(|i| batches[i as usize].clone()).collect()
}

/// Sample `i` of each tensor, as a batch of one.
fn sample(batch: &Tensors, i: usize) -> Tensors {
    let one = |t: &Tensor| {
        let part = t.at(i).unwrap();
        let shape: Vec<usize> = [1].iter().chain(part.shape()).copied().collect();
        Tensor::from_bytes(part.dtype(), &shape, &part.bytes()).unwrap()
    };
    batch.iter().map(|(n, t)| (n.clone(), one(t))).collect()
}

/// Largest difference, relative to the largest number of `a`.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    let largest = a.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, f64::max) / largest.max(f64::MIN_POSITIVE)
}

#[test]
fn accumulated_micro_batches_are_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    let chains = [1, 2].map(|batch| chain_plan(folder.path(), &three(), batch, Amount::Density(0.2)));
    let both = data(&chains[1], 5);
    let case = read_safetensors(&reference("pipeline.unet.case.safetensors")).unwrap().0;
    let case: Tensors = case.into_iter().filter(|(n, _)| !n.starts_with("expected")).collect();
    let unets = [sample(&case, 0), case.clone()].map(|data| {
        let shapes = data.iter().filter(|(n, _)| *n != TARGET).map(|(n, t)| (n.clone(), t.shape().to_vec()));
        let binding = Binding { shapes: shapes.collect(), ..Binding::default() };
        compile(&reference("pipeline.unet.onnx"), binding, Amount::Threshold(5e-3))
    });
    for (name, [one, two], both) in [("chain", chains, both), ("pipeline.unet", unets, case)] {
        // With an epsilon above the gradients a step is proportional to them, so that rounding does not turn signs.
        let whole = train::TrainOptions { adam_epsilon: 1.0, learning_rate: 1.0, ..options() };
        let parts = train::TrainOptions { gradient_accumulation_steps: 2, ..whole.clone() };
        let mut whole = trainer(&two, 2, &whole);
        let mut parts = trainer(&one, 2, &parts);
        let start = snapshot(&whole).weights;
        let expected = whole.step(std::slice::from_ref(&both)).unwrap();
        let found = parts.step(&[sample(&both, 0), sample(&both, 1)]).unwrap();
        assert!(snapshot(&whole).weights != start, "{name}: nothing was trained");
        assert!((expected.loss - found.loss).abs() < 1e-5 * expected.loss, "{name}: {expected:?} {found:?}");
        assert!((expected.grad_norm - found.grad_norm).abs() < 1e-4 * expected.grad_norm, "{name}");
        for s in 0..one.sparse.len() {
            let (a, b) = (state(&whole.executor, s), state(&parts.executor, s));
            assert_eq!(whole.executor.indices(s), parts.executor.indices(s));
            for field in [0, 2, 3] {
                let far = difference(&a[field], &b[field]);
                assert!(far < 1e-4, "{name}: field {field} of sparse weight {s} differs by {far:e}");
            }
        }
    }
}

/// All first moments, one after the other.
fn moments(trainer: &Trainer) -> Vec<f64> {
    let sparse = 0..trainer.executor.plan().sparse.len();
    sparse.flat_map(|s| state(&trainer.executor, s)[2].iter().map(|m| f64::from(*m)).collect::<Vec<_>>()).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn clipping_bounds_the_global_norm_and_reports_the_true_one() {
    let (plan, batches) = dit();
    let first = |max_grad_norm: f64| {
        let mut t = trainer(&plan, 2, &train::TrainOptions { max_grad_norm, ..options() });
        let metrics = t.step(&batches[..1]).unwrap();
        (t, metrics.grad_norm)
    };
    // After the first step a first moment is a tenth of the gradient.
    let (free, free_norm) = first(0.0);
    let gradient = moments(&free);
    assert!((10.0 * norm(&gradient) / free_norm - 1.0).abs() < 1e-5, "{} {free_norm}", 10.0 * norm(&gradient));
    let bound = 1e-2 * free_norm;
    let (clipped, clipped_norm) = first(bound);
    assert_eq!(clipped_norm, free_norm, "the reported norm is the one before clipping");
    let applied = moments(&clipped);
    assert!((10.0 * norm(&applied) / bound - 1.0).abs() < 1e-4, "{} {bound}", 10.0 * norm(&applied));
    let cosine = applied.iter().zip(&gradient).map(|(a, b)| a * b).sum::<f64>() / norm(&applied) / norm(&gradient);
    assert!(cosine > 1.0 - 1e-9, "clipping turned the gradient: {cosine}");
    let (loose, _) = first(2.0 * free_norm);
    assert!(snapshot(&loose) == snapshot(&free), "a bound that is not reached changes nothing");
}

#[test]
fn a_seed_fixes_a_run_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &three(), 2, Amount::Density(0.2));
    let run = |seed: u64, threads: usize, lambda_rank: f64| {
        let mut t = trainer(&plan, threads, &train::TrainOptions { seed, lambda_rank, ..options() });
        for step in 0..6 {
            t.step(&[data(&plan, step)]).unwrap();
        }
        snapshot(&t)
    };
    let one = run(1, 1, 5e-3);
    assert!(one == run(1, 1, 5e-3), "two runs differ");
    assert!(one == run(1, 2, 5e-3), "one and two threads differ");
    assert!(one != run(2, 1, 5e-3), "the seed does nothing");
    assert!(run(1, 1, 0.0) == run(2, 1, 0.0), "without the low-rank term nothing is random");
}

#[test]
fn what_does_not_train_stays_to_the_bit() {
    let (plan, batches) = dit();
    let mut t = trainer(&plan, 2, &options());
    let before: Vec<Vec<u32>> = weights(&t.executor);
    for batch in &batches[..6] {
        t.step(std::slice::from_ref(batch)).unwrap();
    }
    let f32s = plan.weights.iter().enumerate().filter(|(_, w)| w.stored == Stored::Plain(sara::kernels::DType::F32));
    let mut trained = 0;
    for ((w, weight), (old, new)) in f32s.zip(before.iter().zip(weights(&t.executor))) {
        let index = plan.sparse.iter().find(|s| s.weight as usize == w).map_or(&[][..], |s| &s.index);
        for i in (0..old.len()).filter(|i| old[*i] != new[*i]) {
            assert!(index.binary_search(&(i as u32)).is_ok(), "entry {i} of {} is frozen and changed", weight.name);
            trained += 1;
        }
    }
    assert!(trained as u64 > plan.selection.trainable * 9 / 10, "{trained} of {}", plan.selection.trainable);
}
