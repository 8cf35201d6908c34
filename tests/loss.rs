//! Losses against their formulas, and their gradients against differences.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use sara::compiler::compile::{TrainOptions, compile_training, unobserved};
use sara::compiler::import::{Binding, Model};
use sara::compiler::loss::{Distance, Loss, TARGET, WEIGHT};
use sara::compiler::select::{self, Amount};
use sara::kernels::hyper;
use sara::runtime::executor::{Executor, Moments, SparseState};
use sara::runtime::tensor::{Tensor, Tensors, read_safetensors};
use std::path::PathBuf;

const WEIGHTS: [f32; 2] = [0.3, 2.0];

fn reference(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

/// A model under training with this loss, and a batch for it.
fn prepared(loss: Loss) -> (Executor, Tensors) {
    let path = reference("pipeline.unet.onnx");
    let (mut batch, _) = read_safetensors(&reference("pipeline.unet.case.safetensors")).unwrap();
    batch.retain(|name, _| !name.starts_with("expected"));
    let shapes = batch.iter().filter(|(name, _)| *name != TARGET).map(|(n, t)| (n.clone(), t.shape().to_vec()));
    let binding = Binding { shapes: shapes.collect(), ..Binding::default() };
    let options = TrainOptions { loss, ..TrainOptions::new(binding, select::Options::default(), Amount::Density(0.2)) };
    let model = Model::open(&path).unwrap();
    let plan = compile_training(&model, &options, &mut unobserved()).unwrap();
    if loss.weighted {
        batch.insert(WEIGHT.to_owned(), Tensor::f32(&[2], WEIGHTS.to_vec()).unwrap());
    }
    if let Some(channels) = loss.channels {
        let target = &batch[TARGET];
        let [n, c, h, w] = *target.shape() else { panic!("a target of four dimensions") };
        let all = target.to_f32();
        let kept = all.chunks(c * h * w).flat_map(|sample| sample[..channels * h * w].to_vec()).collect();
        batch.insert(TARGET.to_owned(), Tensor::f32(&[n, channels, h, w], kept).unwrap());
    }
    let mut executor = Executor::new(plan, 2, Some(&path)).unwrap();
    executor.hyper()[hyper::GRADIENT_SCALE] = 1.0;
    (executor, batch)
}

fn run(executor: &mut Executor, program: &str, batch: &Tensors) {
    let names: Vec<String> = executor.plan().program(program).unwrap().inputs.iter().map(|p| p.name.clone()).collect();
    for name in names {
        executor.set_input(program, &name, &batch[&name]).unwrap();
    }
    executor.run(program).unwrap();
}

fn loss_of(executor: &mut Executor, batch: &Tensors) -> f64 {
    run(executor, "train", batch);
    executor.scalar("train", "loss").unwrap()
}

#[test]
fn losses_and_their_gradients_are_those_of_the_formulas() {
    let l2 = |d: f64| d * d;
    let huber = |d: f64| 2.0 * 0.1 * ((d * d + 0.01).sqrt() - 0.1);
    let smooth = |d: f64| 2.0 * ((d * d + 0.01).sqrt() - 0.1);
    let cases: [(Distance, &dyn Fn(f64) -> f64); 3] =
        [(Distance::L2, &l2), (Distance::Huber { c: 0.1 }, &huber), (Distance::SmoothL1 { c: 0.1 }, &smooth)];
    for (distance, formula) in cases {
        for (weighted, channels) in [(false, None), (true, None), (true, Some(3))] {
            let loss = Loss { distance, weighted, channels };
            let (mut executor, batch) = prepared(loss);
            run(&mut executor, "forward", &batch);
            let out = executor.output("forward", "out_sample").unwrap();
            let (out, own) = (out.to_f32(), out.shape().to_vec());
            let target = batch[TARGET].to_f32();
            let plane = own[2] * own[3];
            let kept = channels.unwrap_or(own[1]);
            let mut wanted = 0.0;
            for (i, t) in target.iter().enumerate() {
                let (n, rest) = (i / (kept * plane), i % (kept * plane));
                let weight = if weighted { f64::from(WEIGHTS[n]) } else { 1.0 };
                wanted += weight * formula(f64::from(out[n * own[1] * plane + rest]) - f64::from(*t));
            }
            wanted /= target.len() as f64;
            executor.clear_gradients().unwrap();
            let found = loss_of(&mut executor, &batch);
            assert!((found - wanted).abs() < 2e-6 * wanted, "{loss:?}: {found}, not {wanted}");
            let slope = difference(&mut executor, &batch);
            assert!((slope - 1.0).abs() < 5e-3, "{loss:?}: the gradient is off by a factor of {slope}");
        }
    }
}

/// How the loss changes along its gradient, by differences, over how it should.
fn difference(executor: &mut Executor, batch: &Tensors) -> f64 {
    let count = executor.plan().sparse.len();
    let gradients: Vec<Vec<f32>> = (0..count).map(|s| executor.state(s)[1].to_vec()).collect();
    let norm2: f64 = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum();
    let start: Vec<Vec<f32>> = (0..count).map(|s| executor.state(s)[0].to_vec()).collect();
    let mut at = |by: f64| {
        for s in 0..count {
            let moved: Vec<f32> =
                start[s].iter().zip(&gradients[s]).map(|(p, g)| (f64::from(*p) + by * f64::from(*g)) as f32).collect();
            let index = executor.indices(s).to_vec();
            let zero = vec![0.0; index.len()];
            let moments = Moments::Single([&zero, &zero]);
            let state = SparseState { index: &index, values: &moved, moments, left: &[], left_values: &[] };
            executor.set_state(s, &state).unwrap();
        }
        loss_of(executor, batch)
    };
    let step = 2e-2 / norm2.sqrt();
    (at(step) - at(-step)) / (2.0 * step) / norm2
}
