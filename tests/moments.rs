//! Training with moments of a byte each.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod common;

use common::shim::{device, device_apart};
use sara::compiler::compile::{TrainOptions, compile_training, unobserved};
use sara::compiler::import::{Binding, Model};
use sara::compiler::loss::TARGET;
use sara::compiler::select::{self, Amount};
use sara::runtime::checkpoint;
use sara::runtime::device::Device;
use sara::runtime::executor::{Executor, Moments, Site, memory};
use sara::runtime::plan::Plan;
use sara::runtime::tensor::{Tensors, read_safetensors};
use sara::runtime::train::{self, Trainer};
use std::path::{Path, PathBuf};

const STEPS: usize = 12;

fn reference(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

/// A bundled model's plan and the batches of its trajectory.
fn plan(name: &str, use_8bit_adam: bool) -> (Plan, Vec<Tensors>) {
    let (all, _) = read_safetensors(&reference(&format!("trajectory/{name}.batches.safetensors"))).unwrap();
    let shapes = all.iter().filter(|(n, _)| *n != TARGET).map(|(n, t)| (n.clone(), t.shape()[1..].to_vec()));
    let binding = Binding { shapes: shapes.collect(), ..Binding::default() };
    let model = Model::open(&reference(&format!("{name}.onnx"))).unwrap();
    let options = TrainOptions::new(binding, select::Options::default(), Amount::Threshold(5e-3));
    let plan = compile_training(&model, &TrainOptions { use_8bit_adam, ..options }, &mut unobserved()).unwrap();
    let batch = |i| all.iter().map(|(n, t)| (n.clone(), t.at(i).unwrap())).collect();
    (plan, (0..STEPS).map(batch).collect())
}

fn trainer(plan: &Plan, threads: usize) -> Trainer {
    trainer_on(plan, threads, None)
}

fn trainer_on(plan: &Plan, threads: usize, device: Option<Box<dyn Device>>) -> Trainer {
    let options = train::TrainOptions {
        max_train_steps: STEPS as u64,
        threshold: plan.selection.threshold,
        learning_rate: 1e-3,
        progressive_iter: Some(STEPS as u64 / 2),
        ..train::TrainOptions::default()
    };
    Trainer::new(Executor::on(plan.clone(), threads, None, device).unwrap(), options).unwrap()
}

/// Losses, and the values of what trains.
fn run(trainer: &mut Trainer, batches: &[Tensors]) -> (Vec<f64>, Vec<f32>) {
    let losses = batches.iter().map(|b| trainer.step(std::slice::from_ref(b)).unwrap().loss).collect();
    trainer.executor.settle().unwrap();
    (losses, values(trainer))
}

fn values(trainer: &Trainer) -> Vec<f32> {
    (0..trainer.executor.plan().sparse.len()).flat_map(|s| trainer.executor.values(s)).collect()
}

#[test]
fn values_go_where_they_go_with_moments_in_single_precision() {
    for name in ["dit.dynamo", "sd15_unet.ts"] {
        let (single, batches) = plan(name, false);
        let (coded, _) = plan(name, true);
        let (mut a, mut b) = (trainer(&single, 2), trainer(&coded, 2));
        let start = values(&a);
        assert!(start == values(&b), "{name}: another selection");
        let ((losses, expected), (found_losses, found)) = (run(&mut a, &batches), run(&mut b, &batches));
        let apart = |x: &[f32]| expected.iter().zip(x).map(|(e, x)| f64::from(e - x).powi(2)).sum::<f64>().sqrt();
        let share = apart(&found) / apart(&start);
        let losses = losses.iter().zip(&found_losses).map(|(e, f)| (e - f).abs() / e).fold(0.0, f64::max);
        println!("{name}: losses differ by {losses:.1e}, values by {share:.1e} of their way");
        assert!(share > 0.0, "{name}: the moments are in single precision");
        assert!(losses < 1e-3 && share < 0.05, "{name}: {losses:e}, {share:e}");
        let alone = run(&mut trainer(&coded, 1), &batches);
        assert!(alone == (found_losses, found), "{name}: one and two threads differ");
    }
}

#[test]
fn state_takes_eighteen_bytes_and_a_thirty_second_of_an_entry() {
    let state = |plan: &Plan| memory(plan, Site::Cpu { threads: 1 }).state as f64;
    let [single, coded] = [false, true].map(|coded| plan("dit.dynamo", coded).0);
    let entries = single.selection.trainable as f64;
    // Position, value, gradient and the plan's position; two moments; a scale of four bytes for 256 of each. Seven arrays of a weight are rounded up.
    let rounding = 64.0 * (7.0 * single.sparse.len() as f64 + 1.0);
    assert!(rounding < 5.0 * entries, "{rounding} bytes of {entries} entries");
    for (plan, bytes) in [(&single, 24.0), (&coded, 18.0 + 1.0 / 32.0)] {
        let more = state(plan) - bytes * entries;
        assert!((0.0..rounding).contains(&more), "{more} bytes of {}", state(plan));
    }
}

#[test]
fn a_checkpoint_with_moments_of_the_other_form_is_refused() {
    let (single, batches) = plan("dit.dynamo", false);
    let (coded, _) = plan("dit.dynamo", true);
    for (from, to, say) in [
        (&single, &coded, "is f32, and the plan's moments are u8; compile without --use-8bit-adam"),
        (&coded, &single, "is u8, and the plan's moments are f32; compile with --use-8bit-adam"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut trained = trainer(from, 1);
        run(&mut trained, &batches[..1]);
        let saved = checkpoint::save(&trained, folder.path(), 2).unwrap();
        let mut fresh = trainer(to, 1);
        let before = values(&fresh);
        let error = checkpoint::load(&mut fresh, &saved).unwrap_err().to_string();
        assert!(error.contains(say), "{error}");
        assert!(values(&fresh) == before && fresh.step == 0, "a refused checkpoint changed the trainer");
        checkpoint::load(&mut trainer(from, 1), &saved).unwrap();
    }
}

/// Codes of a saved state come back as they were, and training goes on with equal bits.
#[test]
fn a_resumed_run_is_the_unbroken_run() {
    let (plan, batches) = plan("dit.dynamo", true);
    let codes = |t: &Trainer| -> Vec<(Vec<u8>, Vec<u32>)> {
        let of = |s| match t.executor.moments(s) {
            Moments::Single(_) => panic!("the moments are in single precision"),
            Moments::Coded { codes, absmax } => (codes.concat(), absmax.concat().iter().map(|a| a.to_bits()).collect()),
        };
        (0..t.executor.plan().sparse.len()).map(of).collect()
    };
    for at in [1, STEPS / 2 - 1, STEPS / 2 + 2] {
        let mut straight = trainer(&plan, 2);
        let expected = run(&mut straight, &batches);
        let mut first = trainer(&plan, 2);
        run(&mut first, &batches[..at]);
        let folder = tempfile::tempdir().unwrap();
        let mut second = trainer(&plan, 1);
        checkpoint::load(&mut second, &checkpoint::save(&first, folder.path(), 2).unwrap()).unwrap();
        assert!(codes(&second) == codes(&first), "the checkpoint of step {at} does not hold all");
        let found = run(&mut second, &batches[at..]);
        assert!(found == (expected.0[at..].to_vec(), expected.1), "the run from step {at} ends differently");
        assert!(codes(&second) == codes(&straight), "the run from step {at} ends in another state");
        assert!(straight.trainable() < plan.selection.trainable, "nothing was left behind");
    }
}

/// A plan says how its moments are stored, also after it was read back.
#[test]
fn a_plan_keeps_the_form_of_its_moments() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("p.plan");
    for coded in [false, true] {
        let (plan, _) = plan("dit.dynamo", coded);
        plan.save(path).unwrap();
        let read = Plan::load(path).unwrap();
        assert!(read == plan && read.use_8bit_adam == coded);
    }
}

/// The CUDA kernels, run on a processor, end near where the CPU's do, in whatever order their threads run.
#[test]
fn cuda_kernels_train_as_cpu_kernels_do() {
    let (plan, batches) = plan("dit.dynamo", true);
    let outcome = |device| {
        let mut trainer = trainer_on(&plan, 2, device);
        let (losses, found) = run(&mut trainer, &batches[..3]);
        let moments: Vec<_> = (0..plan.sparse.len()).map(|s| trainer.executor.moments(s).decoded()).collect();
        (losses, found, moments)
    };
    let (cpu, cuda) = (outcome(None), outcome(Some(device(1))));
    for (c, s) in cpu.0.iter().zip(&cuda.0) {
        assert!((c - s).abs() <= 1e-5 * c, "{:?} and {:?}", cpu.0, cuda.0);
    }
    // A code is a whole level: what lies between two may fall on either side.
    for which in 0..2 {
        let [c, s] =
            [&cpu, &cuda].map(|o| o.2.iter().flat_map(|m| m[which].clone()).map(f64::from).collect::<Vec<_>>());
        let apart = c.iter().zip(&s).map(|(c, s)| (c - s).powi(2)).sum::<f64>().sqrt();
        let length = c.iter().map(|c| c * c).sum::<f64>().sqrt();
        println!("moment {which}: {apart:.1e} of {length:.1e}");
        assert!(length > 0.0 && apart <= 1e-4 * length, "moment {which}: {apart:e} of {length:e}");
    }
    assert!(cuda == outcome(Some(device_apart(99))), "the order of threads, or fusing, changes the result");
}
