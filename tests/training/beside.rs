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
    trainer.step_while(&batches, || meanwhile = told.lock().unwrap().acts.clone()).unwrap();
    let train = Act::Run(plan.programs.iter().position(|p| p.name == "train").unwrap());
    let update = Act::Run(plan.programs.iter().position(|p| p.name == "update").unwrap());
    assert_eq!(meanwhile.iter().filter(|act| **act == train).count(), 2, "{meanwhile:?}");
    assert_eq!(meanwhile.last(), Some(&train), "{meanwhile:?}");
    let after = told.lock().unwrap().acts[meanwhile.len()..].to_vec();
    assert_eq!(after, [Act::Wait, update, Act::Wait, update]);
}
