//! Checkpoints: what goes on from them, and which are refused.

use super::*;

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
