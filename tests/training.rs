//! Training as a whole: what resuming, accumulation, clipping, re-selection and the low-rank term promise.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use nalgebra::DMatrix;
use prost::Message;
use sara::compiler::compile::{Residency, TrainOptions, compile_training, unobserved};
use sara::compiler::import::proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetId, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto, data_type,
};
use sara::compiler::import::{Binding, Model};
use sara::compiler::loss::TARGET;
use sara::compiler::select::{self, Amount};
use sara::kernels::hyper;
use sara::runtime::adapter;
use sara::runtime::checkpoint;
use sara::runtime::executor::{Executor, Moments, SparseState};
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

#[test]
fn a_resumed_run_is_the_unbroken_run() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain_plan(folder.path(), &three(), 4, Amount::Density(0.2));
    let chain_batches: Vec<Tensors> = (0..12).map(|i| data(&chain, i)).collect();
    let (dit, dit_batches) = dit();
    for (name, plan, batches, lambda_rank) in
        [("dit", &dit, &dit_batches, 0.0), ("chain", &chain, &chain_batches, 5e-3)]
    {
        for (accumulation, progressive_iter) in [(1, None), (2, Some(2)), (2, Some(3)), (2, Some(4))] {
            let what = format!("{name}, accumulation {accumulation}, re-selection {progressive_iter:?}");
            let options = train::TrainOptions {
                gradient_accumulation_steps: accumulation,
                lr_scheduler: Schedule::Cosine,
                threshold: plan.selection.threshold,
                progressive_iter,
                lambda_rank,
                ..options()
            };
            let mut straight = trainer(plan, 2, &options);
            let mut first = trainer(plan, 2, &options);
            for step in 0..3 {
                straight.step(&micro(batches, &options, step)).unwrap();
                first.step(&micro(batches, &options, step)).unwrap();
            }
            let run = tempfile::tempdir().unwrap();
            let saved = checkpoint::save(&first, run.path(), 2).unwrap();
            let before = snapshot(&first);
            drop(first);
            let mut second = trainer(plan, 2, &train::TrainOptions { seed: 7, ..options.clone() });
            checkpoint::load(&mut second, &saved).unwrap();
            assert!(snapshot(&second) == before, "{what}: the checkpoint does not hold all");
            assert_eq!(second.options, options, "{what}");
            for step in 3..6 {
                let expected = straight.step(&micro(batches, &options, step)).unwrap();
                let found = second.step(&micro(batches, &options, step)).unwrap();
                let numbers = |m: &train::Metrics| {
                    (m.step, m.loss.to_bits(), m.grad_norm.to_bits(), m.learning_rate.to_bits(), m.trainable)
                };
                assert_eq!(numbers(&found), numbers(&expected), "{what}");
            }
            let end = snapshot(&straight);
            assert!(end == snapshot(&second), "{what}: the runs end differently");
            assert!(end.weights != before.weights, "{what}: nothing was trained");
            let shrunk = straight.trainable() < plan.selection.trainable;
            assert_eq!(shrunk, progressive_iter.is_some(), "{what}");
        }
    }
}

#[test]
fn a_run_may_go_on_with_its_weights_in_their_file() {
    let (resident, batches) = dit();
    let (streamed, _) = dit_with(Residency::Streamed);
    let threshold = resident.selection.threshold;
    let options = train::TrainOptions { threshold, progressive_iter: Some(2), learning_rate: 2e-3, ..options() };
    let end = |first: &Plan, second: &Plan| {
        let run = tempfile::tempdir().unwrap();
        let mut t = trainer(first, 2, &options);
        for batch in &batches[..3] {
            t.step(std::slice::from_ref(batch)).unwrap();
        }
        let saved = checkpoint::save(&t, run.path(), 2).unwrap();
        let mut t = trainer(second, 1, &options);
        checkpoint::load(&mut t, &saved).unwrap();
        let losses: Vec<u64> =
            batches[3..6].iter().map(|b| t.step(std::slice::from_ref(b)).unwrap().loss.to_bits()).collect();
        let sparse = 0..t.executor.plan().sparse.len();
        let state: Vec<_> = sparse.clone().map(|s| state(&t.executor, s).map(|field| bits(&field))).collect();
        let values: Vec<_> = sparse.clone().map(|s| bits(&t.executor.values(s))).collect();
        let left: Vec<_> = sparse.map(|s| (t.executor.left(s).0.to_vec(), bits(t.executor.left(s).1))).collect();
        assert!(left.iter().any(|l| !l.0.is_empty()), "nothing was left behind");
        (losses, state, values, left)
    };
    let straight = end(&resident, &resident);
    assert!(end(&streamed, &streamed) == straight);
    assert!(end(&resident, &streamed) == straight);
    assert!(end(&streamed, &resident) == straight);
}

#[test]
fn a_checkpoint_of_something_else_or_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &three(), 1, Amount::Density(0.1));
    let mut trained = trainer(&plan, 1, &options());
    trained.step(&[data(&plan, 1)]).unwrap();
    let saved = checkpoint::save(&trained, folder.path(), 2).unwrap();
    let refusal = |plan: &Plan| {
        let mut fresh = trainer(plan, 1, &options());
        let before = snapshot(&fresh);
        let error = checkpoint::load(&mut fresh, &saved).unwrap_err().to_string();
        assert!(snapshot(&fresh) == before, "a refused checkpoint changed the trainer: {error}");
        error
    };
    let other = chain_plan(folder.path(), &three(), 1, Amount::Density(0.2));
    assert!(refusal(&other).contains("other trained entries"));
    let elsewhere = tempfile::tempdir().unwrap();
    let other = chain_plan(elsewhere.path(), &[Matrix::random(70, 70, 9)], 1, Amount::Density(0.2));
    assert!(refusal(&other).contains("another model"));
    let state = saved.join("state.safetensors");
    let mut bytes = std::fs::read(&state).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&state, &bytes).unwrap();
    let error = refusal(&plan);
    assert!(error.contains("state.safetensors") && error.contains("damaged"), "{error}");
    std::fs::write(&state, &bytes[..last]).unwrap();
    assert!(refusal(&plan).contains("damaged"));
}

#[test]
fn the_latest_checkpoint_is_the_one_of_most_steps() {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &[Matrix::random(8, 8, 1)], 1, Amount::Density(0.5));
    let run = tempfile::tempdir().unwrap();
    assert_eq!(checkpoint::latest(run.path()).unwrap(), None);
    let mut t = trainer(&plan, 1, &options());
    for step in [7, 1_000_000, 999_999, 20] {
        t.step = step;
        checkpoint::save(&t, run.path(), 2).unwrap();
    }
    std::fs::create_dir(run.path().join("checkpoint-2000000")).unwrap();
    assert_eq!(checkpoint::latest(run.path()).unwrap(), Some((1_000_000, run.path().join("checkpoint-1000000"))));
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
fn reselection_shrinks_keeps_moments_and_leaves_the_rest_in_place() {
    let (plan, batches) = dit();
    let threshold = plan.selection.threshold;
    let options = train::TrainOptions { threshold, progressive_iter: Some(3), learning_rate: 2e-3, ..options() };
    let mut t = trainer(&plan, 2, &options);
    for batch in &batches[..3] {
        assert_eq!(t.step(std::slice::from_ref(batch)).unwrap().trainable, plan.selection.trainable);
    }
    let before = snapshot(&t);
    let full = t.executor.plan().sparse.len();
    // The re-selection alone, on a twin.
    let run = tempfile::tempdir().unwrap();
    let mut twin = trainer(&plan, 2, &options);
    checkpoint::load(&mut twin, &checkpoint::save(&t, run.path(), 2).unwrap()).unwrap();
    let kept = twin.executor.reselect().unwrap();
    assert!(0 < kept && kept < plan.selection.trainable, "{kept}");
    assert!(snapshot(&twin).weights == before.weights, "re-selection changed a weight");
    for s in 0..full {
        let at = |k: usize, field: usize| before.state[s][field][k];
        let stays: Vec<usize> =
            (0..before.index[s].len()).filter(|k| f64::from(f32::from_bits(at(*k, 0)).abs()) < threshold).collect();
        assert_eq!(twin.executor.indices(s), stays.iter().map(|k| before.index[s][*k]).collect::<Vec<_>>());
        for field in [0, 2, 3] {
            let expected: Vec<u32> = stays.iter().map(|k| at(*k, field)).collect();
            assert_eq!(bits(&state(&twin.executor, s)[field]), expected, "field {field} of sparse weight {s}");
        }
    }
    assert_eq!(twin.executor.reselect().unwrap(), kept, "a second time changes nothing");
    // The trainer does the same before its fourth step, and only then.
    assert_eq!(t.step(&batches[3..4]).unwrap().trainable, kept);
    assert_eq!(t.step(&batches[4..5]).unwrap().trainable, kept);
    let after = snapshot(&t);
    let mut moved = 0;
    for (s, sparse) in plan.sparse.iter().enumerate() {
        assert_eq!(after.index[s], twin.executor.indices(s));
        let (old, new) = (&before.weights[sparse.weight as usize], &after.weights[sparse.weight as usize]);
        for i in &sparse.index {
            let stays = after.index[s].binary_search(i).is_ok();
            let same = old[*i as usize] == new[*i as usize];
            assert!(stays || same, "entry {i} of sparse weight {s} left and moved");
            moved += usize::from(!same);
        }
    }
    assert!(moved as u64 > kept / 2, "{moved} of {kept} moved");
}

/// Weights of different sizes have different thresholds under one density.
#[test]
fn reselection_takes_the_threshold_of_each_weight() {
    let folder = tempfile::tempdir().unwrap();
    let mut matrices = three();
    matrices[1].values.iter_mut().for_each(|v| *v *= 100.0);
    let plan = chain_plan(folder.path(), &matrices, 1, Amount::Density(0.2));
    let thresholds: Vec<f64> = plan.sparse.iter().map(|s| s.threshold).collect();
    assert!(thresholds[1] > 50.0 * thresholds[0], "{thresholds:?}");
    assert_eq!(thresholds.iter().copied().fold(0.0, f64::max), plan.selection.threshold);
    let options = train::TrainOptions { threshold: plan.selection.threshold, progressive_iter: Some(1), ..options() };
    let mut t = trainer(&plan, 1, &options);
    // Half of the entries of each weight leave their range.
    let mut expected = Vec::new();
    for (s, threshold) in thresholds.iter().enumerate() {
        let index = t.executor.indices(s).to_vec();
        let mut values = t.executor.state(s)[0].to_vec();
        values.iter_mut().step_by(2).for_each(|v| *v = 1.5 * *threshold as f32);
        let zero = vec![0.0; index.len()];
        let moments = Moments::Single([&zero[..], &zero[..]]);
        let state = SparseState { index: &index, values: &values, moments, left: &[], left_values: &[] };
        t.executor.set_state(s, &state).unwrap();
        expected.push(index.into_iter().skip(1).step_by(2).collect::<Vec<_>>());
    }
    t.step = 1;
    let total: usize = expected.iter().map(Vec::len).sum();
    assert_eq!(t.step(&[data(&plan, 1)]).unwrap().trainable, total as u64);
    for (s, expected) in expected.iter().enumerate() {
        assert_eq!(t.executor.indices(s), expected, "sparse weight {s}");
    }
}

/// Moves the bytes of all weights of a model into the file `chain.data` beside it.
fn externalise(path: &Path) {
    use sara::compiler::import::proto::StringStringEntryProto;
    let mut model = ModelProto::decode(bytes_of(path)).unwrap();
    let mut data: Vec<u8> = Vec::new();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        tensor.external_data = vec![
            entry("location", "chain.data".into()),
            entry("offset", data.len().to_string()),
            entry("length", tensor.raw_data.len().to_string()),
        ];
        tensor.data_location = 1;
        data.extend(&tensor.raw_data);
        tensor.raw_data = Default::default();
    }
    std::fs::write(path, model.encode_to_vec()).unwrap();
    std::fs::write(path.with_extension("data"), data).unwrap();
}

fn bytes_of(path: &Path) -> prost::bytes::Bytes {
    std::fs::read(path).unwrap().into()
}

#[test]
fn external_data_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.onnx");
    let make = |seed: u64| {
        chain(&path, &[Matrix::random(70, 66, seed), Matrix::random(66, 70, seed + 1)]);
        externalise(&path);
        compile(&path, Binding::default(), Amount::Density(0.2))
    };
    let other = make(5);
    let plan = make(1);
    assert_eq!(other.model.sha256, plan.model.sha256, "only the external data differs");
    let values: Vec<Vec<f32>> = plan.sparse.iter().map(|s| vec![0.0; s.index.len()]).collect();
    adapter::between(&plan, &Source::new(&path), &values).unwrap();
    let refusal = |plan: &Plan| Executor::new(plan.clone(), 2, None).map(drop).unwrap_err().to_string();
    let error = refusal(&other);
    for part in ["chain.data: ", "weight `w0`", "compile the plan again"] {
        assert!(error.contains(part), "{error}");
    }
    // One byte of the second weight is enough.
    Executor::new(plan.clone(), 2, None).unwrap();
    let data = path.with_extension("data");
    let mut bytes = std::fs::read(&data).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&data, &bytes).unwrap();
    let error = refusal(&plan);
    assert!(error.contains("weight `w1`"), "{error}");
    let error = adapter::between(&plan, &Source::new(&path), &values).unwrap_err().to_string();
    assert!(error.contains("chain.data: ") && error.contains("weight `w1`"), "{error}");
}

#[test]
fn a_checkpoint_of_other_external_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.onnx");
    let make = |scale: f32| {
        let mut matrix = Matrix::random(70, 66, 1);
        matrix.values.iter_mut().for_each(|v| *v *= scale);
        chain(&path, &[matrix]);
        externalise(&path);
        compile(&path, Binding::default(), Amount::Density(0.2))
    };
    let plan = make(1.0);
    let mut trained = trainer(&plan, 1, &options());
    trained.step(&[data(&plan, 1)]).unwrap();
    let saved = checkpoint::save(&trained, folder.path(), 2).unwrap();
    let other = make(2.0);
    assert_eq!(other.model.sha256, plan.model.sha256);
    assert_eq!(other.sparse[0].index, plan.sparse[0].index, "the same entries are the smallest");
    let error = checkpoint::load(&mut trainer(&other, 1, &options()), &saved).unwrap_err().to_string();
    assert!(error.contains("of other weights"), "{error}");
}

#[test]
fn options_under_which_nothing_or_something_else_is_trained_are_refused() {
    let refusal = |o: train::TrainOptions| o.check().unwrap_err().to_string();
    options().check().unwrap();
    let error = refusal(train::TrainOptions { max_train_steps: 0, gradient_accumulation_steps: 4, ..options() });
    assert!(error.contains("no step to train") && error.contains("4 batches"), "{error}");
    let error = refusal(train::TrainOptions { seed: 1 << 63, ..options() });
    assert!(error.contains("--seed must be at most 9223372036854775807"), "{error}");
}

/// The selected values of sparse weight `s` in their places, zero elsewhere.
fn selected(executor: &Executor, s: usize) -> DMatrix<f64> {
    let plan = executor.plan();
    let shape = &plan.weights[plan.sparse[s].weight as usize].shape;
    let (rows, cols) = (shape[0] as usize, shape[1] as usize);
    let mut matrix = DMatrix::zeros(rows, cols);
    for (i, v) in executor.indices(s).iter().zip(executor.state(s)[0]) {
        matrix[(*i as usize / cols, *i as usize % cols)] = f64::from(*v);
    }
    matrix
}

fn nuclear(executor: &Executor) -> Vec<f64> {
    (0..executor.plan().sparse.len()).map(|s| selected(executor, s).singular_values().sum()).collect()
}

#[test]
fn the_low_rank_term_changes_training_and_lowers_the_nuclear_norm() {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &three(), 2, Amount::Density(0.3));
    let train = |lambda_rank: f64, steps: u64, scale: f64| {
        let options = train::TrainOptions { lambda_rank, adam_weight_decay: 0.0, learning_rate: 2e-4, ..options() };
        let mut t = trainer(&plan, 2, &options);
        for step in 0..steps {
            let scaled = |t: Tensor| Tensor::f32(t.shape(), t.to_f32().iter().map(|v| v * scale as f32).collect());
            let batch = data(&plan, step).into_iter().map(|(n, t)| (n, scaled(t).unwrap())).collect();
            t.step(&[batch]).unwrap();
        }
        t
    };
    assert!(snapshot(&train(0.0, 3, 1.0)).weights != snapshot(&train(5e-3, 3, 1.0)).weights);
    // Where the input is zero, every gradient is, and only the low-rank term moves anything.
    let without = train(0.0, 40, 0.0);
    let fresh = trainer(&plan, 1, &options());
    assert!(snapshot(&without).weights == snapshot(&fresh).weights, "weights move without a gradient");
    let with = train(5e-3, 40, 0.0);
    for (s, (from, to)) in nuclear(&without.executor).iter().zip(nuclear(&with.executor)).enumerate() {
        println!("nuclear norm of matrix {s}: {from:.4} to {to:.4}");
        assert!(to < 0.9 * from, "the nuclear norm of matrix {s} goes from {from} to {to}");
    }
}

/// The exact subgradient `U V^T` of the nuclear norm.
fn polar(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let svd = matrix.clone().svd(true, true);
    let (u, v_t) = (svd.u.unwrap(), svd.v_t.unwrap());
    let largest = svd.singular_values.max();
    let mut sum = DMatrix::zeros(matrix.nrows(), matrix.ncols());
    for (k, s) in svd.singular_values.iter().enumerate() {
        // Values come as `f32`: what is below their rounding is zero.
        if *s > 1e-6 * largest {
            sum += u.column(k) * v_t.row(k);
        }
    }
    sum
}

/// How far the subgradient that training adds is from the exact one: `1 - cosine`, and the ratio of lengths.
fn subgradient(matrix: Matrix, share: f64) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &[matrix], 1, Amount::Density(share));
    let program = plan.sparse[0].low_rank.clone().unwrap();
    let mut executor = Executor::new(plan, 2, None).unwrap();
    executor.poison(true);
    executor.hyper()[hyper::LAMBDA_RANK] = 1.0;
    executor.run(&program).unwrap();
    let exact = polar(&selected(&executor, 0));
    let cols = exact.ncols();
    let exact: Vec<f64> = executor.indices(0).iter().map(|i| exact[(*i as usize / cols, *i as usize % cols)]).collect();
    let found: Vec<f64> = executor.state(0)[1].iter().map(|g| f64::from(*g)).collect();
    let dot: f64 = exact.iter().zip(&found).map(|(a, b)| a * b).sum();
    (1.0 - dot / norm(&exact) / norm(&found), norm(&found) / norm(&exact))
}

#[test]
fn the_low_rank_subgradient_is_that_of_the_exact_decomposition() {
    for (rows, cols) in [(65, 65), (70, 130), (130, 70), (96, 96), (256, 80)] {
        for share in [0.02, 0.1, 0.5, 1.0] {
            let (off, size) = subgradient(Matrix::random(rows, cols, (rows * cols) as u64), share);
            println!("{rows}x{cols}, {share} selected: 1 - cosine {off:.1e}, size {size:.4}");
            assert!(off < 1e-6 && (size - 1.0).abs() < 1e-4, "{rows}x{cols}, {share}: {off:e} {size}");
        }
        for rank in [1, 5, 40] {
            let left = DMatrix::from_vec(rows, rank, noise(rows * rank, 5, 0.1));
            let right = DMatrix::from_vec(rank, cols, noise(rank * cols, 6, 0.1));
            let values: Vec<f32> = (left * right).transpose().iter().copied().collect();
            let (off, size) = subgradient(Matrix { rows, cols, values }, 1.0);
            println!("{rows}x{cols} of rank {rank}: 1 - cosine {off:.1e}, size {size:.4}");
            // The iteration lifts the rounding noise of the missing directions some ten thousandfold: to a thousandth.
            assert!(off < 2e-5 && (size - 1.0).abs() < 1e-4, "{rows}x{cols} of rank {rank}: {off:e} {size}");
        }
    }
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

/// `batch` with one element of one tensor replaced.
fn spoilt(batch: &Tensors, name: &str, value: f32) -> Tensors {
    let mut batch = batch.clone();
    let tensor = &batch[name];
    let mut values = tensor.to_f32();
    values[3] = value;
    let tensor = Tensor::f32(tensor.shape(), values).unwrap();
    batch.insert(name.into(), tensor);
    batch
}

#[test]
fn numbers_that_are_not_finite_are_named_and_change_nothing() {
    let (plan, batches) = dit();
    let options = train::TrainOptions { gradient_accumulation_steps: 2, ..options() };
    let mut clean = trainer(&plan, 2, &options);
    let mut t = trainer(&plan, 2, &options);
    for step in 0..2 {
        clean.step(&micro(&batches, &options, step)).unwrap();
        t.step(&micro(&batches, &options, step)).unwrap();
    }
    let before = snapshot(&t);
    for (at, name, value, how) in [
        (0, "hidden_states", f32::NAN, "first in"),
        // The first product or sum of infinities is NaN.
        (1, "hidden_states", f32::INFINITY, "after an infinity in"),
        (0, TARGET, f32::NAN, "first in"),
        (1, TARGET, f32::NAN, "first in"),
    ] {
        let mut data = micro(&batches, &options, 2);
        data[at] = spoilt(&data[at], name, value);
        let error = t.step(&data).unwrap_err().to_string();
        assert!(error.starts_with("step 3: ") && error.contains(&format!("{how} `{name}`")), "{error}");
        assert!(snapshot(&t) == before, "{name} in micro-batch {at} left something behind");
    }
    // An overflow inside the model is named by tensor and node.
    let mut data = micro(&batches, &options, 2);
    data[1] = spoilt(&data[1], TARGET, 1e30);
    let error = t.step(&data).unwrap_err().to_string();
    assert!(error.starts_with("step 3: the loss") && error.contains("first in `loss`"), "{error}");
    clean.step(&micro(&batches, &options, 2)).unwrap();
    t.step(&micro(&batches, &options, 2)).unwrap();
    assert!(snapshot(&t) == snapshot(&clean), "a failed step is felt in the next");
}

/// An input that is infinite on purpose, as a mask is, hides no NaN that comes after it.
#[test]
fn a_nan_is_named_before_an_infinity() {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &[Matrix::random(8, 8, 1)], 1, Amount::Density(0.5));
    let options = train::TrainOptions { gradient_accumulation_steps: 2, ..options() };
    let mut t = trainer(&plan, 1, &options);
    let mut first = |batches: [Tensors; 2]| t.step(&batches).unwrap_err().to_string();
    let error = first([spoilt(&spoilt(&data(&plan, 1), "x", f32::INFINITY), TARGET, f32::NAN), data(&plan, 2)]);
    assert!(error.contains("first in `target`, after an infinity in `x`"), "{error}");
    // Without NaN the infinity is what there is to name.
    let error = first([data(&plan, 2), spoilt(&data(&plan, 1), TARGET, f32::INFINITY)]);
    assert!(error.contains("first in `target`"), "{error}");
}

#[test]
fn a_gradient_that_overflows_is_traced_to_its_own_micro_batch() {
    let folder = tempfile::tempdir().unwrap();
    // With zero weights the loss is finite for any input.
    let zero = Matrix { rows: 70, cols: 70, values: vec![0.0; 4900] };
    let plan = chain_plan(folder.path(), &[zero], 1, Amount::Threshold(1e-3));
    for at in [0, 1] {
        let options = train::TrainOptions { gradient_accumulation_steps: 2, ..options() };
        let mut t = trainer(&plan, 1, &options);
        let before = snapshot(&t);
        let mut batches = [data(&plan, 1), data(&plan, 2)];
        batches[at] = spoilt(&spoilt(&batches[at], "x", 1e30), TARGET, 1e15);
        let error = t.step(&batches).unwrap_err().to_string();
        assert!(error.contains("a gradient is not finite; first in `w0.p.d"), "{error}");
        assert!(error.contains("(node `/y/MatMul`)"), "{error}");
        assert!(snapshot(&t) == before);
    }
}

#[test]
fn data_that_does_not_fit_is_refused_by_name() {
    let (plan, batches) = dit();
    let options = train::TrainOptions { gradient_accumulation_steps: 2, ..options() };
    let mut t = trainer(&plan, 1, &options);
    let before = snapshot(&t);
    let mut refusal = |change: &dyn Fn(&mut Tensors)| {
        let mut errors = Vec::new();
        for at in [0, 1] {
            let mut data = micro(&batches, &options, 0);
            change(&mut data[at]);
            errors.push(t.step(&data).unwrap_err().to_string());
            assert!(snapshot(&t) == before, "a refused batch left something behind: {}", errors[at]);
        }
        assert_eq!(errors[0], errors[1]);
        errors.remove(0)
    };
    let error = refusal(&|b| drop(b.remove("timestep")));
    assert!(error.starts_with("tensor `timestep`: is missing"), "{error}");
    let error = refusal(&|b| drop(b.remove(TARGET)));
    assert!(error.starts_with("tensor `target`: is missing"), "{error}");
    let error = refusal(&|b| drop(b.insert("latents".into(), b["timestep"].clone())));
    assert!(error.starts_with("tensor `latents`: is in the data and not an input"), "{error}");
    let error = refusal(&|b| drop(b.insert("timestep".into(), Tensor::i64(&[3], vec![1, 2, 3]).unwrap())));
    assert!(error.contains("tensor `timestep`: must have shape [2], not [3]"), "{error}");
    let error = refusal(&|b| drop(b.insert("timestep".into(), Tensor::f32(&[2], vec![1.0, 2.5]).unwrap())));
    assert!(error.contains("tensor `timestep`: must be i64"), "{error}");
    let error = t.step(&batches[..1]).unwrap_err().to_string();
    assert!(error.contains("needs 2 micro-batches and was given 1"), "{error}");
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
