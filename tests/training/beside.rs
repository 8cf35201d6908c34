//! What is done while a device computes.

use super::*;
use crate::common::recorder::{Act, Recorder};

/// A step waits for a device only when it needs what the device computes: the loss, and then the norm.
#[test]
fn the_next_batch_is_made_while_a_device_computes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &three(), 2, Amount::Density(0.3));
    let recorder = Recorder::new(true);
    let told = recorder.told();
    let executor = Executor::on(plan.clone(), 1, None, Some(Box::new(recorder))).unwrap();
    let options = train::TrainOptions { gradient_accumulation_steps: 2, ..options() };
    let mut trainer = Trainer::new(executor, options).unwrap();
    let batches = [data(&plan, 1), data(&plan, 2)];
    trainer.step(&batches).unwrap();
    told.lock().unwrap().acts.clear();
    let mut meanwhile = Vec::new();
    trainer.step_while(&batches, || meanwhile.push(told.lock().unwrap().acts.len())).unwrap();
    let train = Act::Run(plan.programs.iter().position(|p| p.name == "train").unwrap());
    let update = Act::Run(plan.programs.iter().position(|p| p.name == "update").unwrap());
    let acts = &told.lock().unwrap().acts;
    assert_eq!(meanwhile.iter().map(|at| acts[at - 1]).collect::<Vec<_>>(), [train; 2], "{acts:?}");
    assert_eq!(acts[meanwhile[1]..], [Act::Wait, update, Act::Wait, update]);
}

/// The forecast is what is taken of a device, to the byte.
#[test]
fn a_device_gives_what_was_forecast() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.onnx");
    chain(&path, &three());
    let model = Model::open(&path).unwrap();
    let binding = Binding { dims: [("batch".to_owned(), 40)].into(), ..Binding::default() };
    let plain = TrainOptions::new(binding, select::Options::default(), Amount::Density(0.3));
    let streamed = TrainOptions { weights: Residency::Streamed, ..plain.clone() };
    let half = TrainOptions { precision: Precision::Bf16, use_8bit_adam: true, ..plain.clone() };
    let mut pages = Vec::new();
    for options in [plain, streamed, half] {
        let plan = compile_training(&model, &options, &mut unobserved()).unwrap();
        let forecast = memory(&plan, Site::Device(MatmulPrecision::Highest));
        let recorder = Recorder::new(true);
        let told = recorder.told();
        drop(Executor::on(plan, 1, None, Some(Box::new(recorder))).unwrap());
        assert_eq!(told.lock().unwrap().taken, forecast.total(), "{forecast:?}");
        pages.push(forecast.pages);
    }
    assert!(pages[0] == 0 && pages[1] > 0);
}
