//! Numbers, data and options that no training takes.

use super::*;

#[test]
fn options_under_which_nothing_or_something_else_is_trained_are_refused() {
    let refusal = |o: train::TrainOptions| o.check().unwrap_err().to_string();
    options().check().unwrap();
    let error = refusal(train::TrainOptions { max_train_steps: 0, gradient_accumulation_steps: 4, ..options() });
    assert!(error.contains("no step to train") && error.contains("4 batches"), "{error}");
    let error = refusal(train::TrainOptions { seed: 1 << 63, ..options() });
    assert!(error.contains("--seed must be at most 9223372036854775807"), "{error}");
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
