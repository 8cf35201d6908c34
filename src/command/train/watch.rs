//! What is measured and drawn while a run trains: the loss on held-out pictures, and pictures of chosen texts.

use super::Failure;
use super::data::Data;
use super::flags::Watched;
use crate::command::sample::{scheduler, write_png};
use crate::pipeline::batches::{Measurement, QUARTILES};
use crate::pipeline::conditions::Conditions;
use crate::pipeline::denoiser::Denoiser;
use crate::pipeline::sample::{Settings, Start, latents};
use crate::pipeline::shapes::Size;
use crate::pipeline::{Error, Pipeline};
use ndarray::{Array4, ArrayD, IxDyn};
use sara_compiler::import::Input;
use sara_runtime::executor::Executor;
use sara_runtime::tensor::{Tensor, Tensors};
use sara_runtime::train::{Metrics, Trainer};
use std::path::{Path, PathBuf};

/// Steps of sampling.
const STEPS: usize = 20;

/// A picture: its file, the bytes, height and width.
pub(super) type Drawn = (PathBuf, Vec<u8>, [usize; 2]);

/// What is watched.
pub(super) struct Watch {
    pipeline: Pipeline,
    measurements: Vec<Measurement>,
    texts: Vec<Conditions>,
    avoided: Conditions,
    watched: Watched,
    seed: u64,
    /// Height and width of the pictures that are drawn.
    size: Size,
    folder: PathBuf,
}

impl Watch {
    /// Prepares what the flags ask for, for a run in `run`. Nothing if they ask for nothing.
    pub(super) fn new(
        mut pipeline: Pipeline,
        data: &Data,
        watched: Watched,
        seed: u64,
        run: &Path,
    ) -> Result<Option<Watch>, Failure> {
        let Data::Cache(batches) = data else { return Ok(None) };
        let measurements = batches.measurements()?;
        let size = batches.cache().sizes()[0];
        if watched.every == 0 || measurements.is_empty() && watched.prompts.is_empty() {
            return Ok(None);
        }
        let mut texts = Vec::new();
        for prompt in &watched.prompts {
            texts.push(pipeline.conditions(Some(prompt))?);
        }
        let avoided = if texts.is_empty() { Conditions::new() } else { pipeline.conditions(None)? };
        pipeline.release();
        Ok(Some(Watch { pipeline, measurements, texts, avoided, watched, seed, size, folder: run.join("samples") }))
    }

    /// Whether something is due after so many steps.
    pub(super) fn due(&self, step: u64, last: u64) -> bool {
        step.is_multiple_of(self.watched.every) || step == last
    }

    /// Measures and draws with the weights as they are. Returns the pictures: file, its bytes, height and width.
    pub(super) fn look(
        &mut self,
        trainer: &mut Trainer,
        data: &Data,
        metrics: Option<&mut Metrics>,
        step: u64,
    ) -> Result<Vec<Drawn>, Failure> {
        if let (Data::Cache(batches), Some(metrics)) = (data, metrics) {
            let mut errors = Vec::new();
            for measurement in &self.measurements {
                let output = forward(&mut trainer.executor, &measurement.inputs)?;
                errors.extend(batches.errors(measurement, &output)?);
            }
            let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
            let of = |quartile: usize| {
                let own: Vec<f64> = errors.iter().filter(|e| e.0 == quartile).map(|e| e.1).collect();
                mean(&own)
            };
            if !errors.is_empty() {
                let quartiles: Vec<f64> = (0..QUARTILES).map(of).collect();
                metrics.validation_loss = Some(mean(&quartiles));
                metrics.validation_quartiles = Some(quartiles);
            }
        }
        let mut files = Vec::new();
        for (t, text) in self.texts.iter().enumerate() {
            for image in 0..self.watched.images {
                let latents = self.draw(&mut trainer.executor, text, self.seed.wrapping_add(image))?;
                let path = self.folder.join(format!("step-{step:06}-{t}-{image}.png"));
                let picture = self.pipeline.decode_latents(latents)?;
                let size = [picture.dim().2, picture.dim().3];
                files.push((path.clone(), write_png(&path, &picture)?, size));
            }
        }
        self.pipeline.release();
        Ok(files)
    }

    /// Latents of a text, in the commonest size of the cache.
    fn draw(&self, executor: &mut Executor, text: &Conditions, seed: u64) -> Result<Array4<f32>, Failure> {
        let program =
            executor.plan().program("forward").ok_or_else(|| Failure::Plain("the plan cannot draw".into()))?;
        let shape = |port: &sara_runtime::plan::Port| Input {
            name: port.name.clone(),
            dtype: Some(executor.plan().buffer(port.buffer).dtype),
            shape: port.shape.iter().map(|d| Some(*d as usize)).collect(),
        };
        let inputs: Vec<Input> = program.inputs.iter().map(shape).collect();
        let batch =
            inputs.iter().find_map(|i| (i.name == "timestep").then(|| i.shape.first().copied().flatten())).flatten();
        let batch = batch.unwrap_or(1);
        let scale = self.pipeline.downscale()?;
        let [height, width] = self.size.map(|side| side / scale);
        let guidance = self.watched.guidance.map_or_else(|| self.pipeline.guidance(), Ok)?;
        let denoiser = Denoiser::new(&self.pipeline.folder, &inputs, guidance);
        let settings = Settings { sampler: scheduler(None, &self.pipeline)?, steps: STEPS, guidance };
        let start = Start::new(seed, self.pipeline.latent_channels(), height, width);
        // A program takes whole batches: the sample fills one, and the first of its results counts.
        let run = |inputs: &Tensors| {
            let wide = inputs.iter().map(|(name, t)| (name.clone(), repeated(t, batch))).collect();
            let output = forward(executor, &wide)?;
            output
                .at(0)
                .and_then(|t| first(&t))
                .ok_or_else(|| Error::Misfit("the denoiser's output has no batch".into()))
        };
        Ok(latents(&self.pipeline, &denoiser, &settings, start, [text, &self.avoided], run, || ())?)
    }
}

/// A tensor with a batch dimension of 1.
fn first(tensor: &Tensor) -> Option<Tensor> {
    let shape: Vec<usize> = [&[1], tensor.shape()].concat();
    Tensor::f32(&shape, tensor.to_f32())
}

/// The sample of a batch of 1, `count` times. Tables that are the same for all samples stay as they are.
fn repeated(tensor: &Tensor, count: usize) -> Tensor {
    fn of<T: Clone>(a: &ArrayD<T>, count: usize) -> ArrayD<T> {
        match a.shape() {
            [1, ..] => {
                let shape = [&[count], &a.shape()[1..]].concat();
                a.broadcast(IxDyn(&shape)).map_or_else(|| a.clone(), |wide| wide.to_owned())
            }
            _ => a.clone(),
        }
    }
    match tensor {
        Tensor::F32(a) => Tensor::F32(of(a, count)),
        Tensor::I64(a) => Tensor::I64(of(a, count)),
        other => other.clone(),
    }
}

/// The first output of the forward program that takes these inputs.
fn forward(executor: &mut Executor, inputs: &Tensors) -> Result<Tensor, Error> {
    let misfit = || Error::Misfit("the plan has no forward program for these shapes; compile it with --cache".into());
    let mut programs = executor.plan().programs.iter().filter(|p| p.kind() == "forward");
    let program = programs.find(|p| p.takes(inputs)).ok_or_else(misfit)?;
    let output = program.outputs.first().ok_or_else(misfit)?.name.clone();
    let name = program.name.clone();
    for (input, tensor) in inputs {
        executor.set_input(&name, input, tensor)?;
    }
    executor.run(&name)?;
    Ok(executor.output(&name, &output)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_fills_a_batch() {
        let one = Tensor::f32(&[1, 2], vec![1.0, 2.0]).unwrap();
        assert_eq!(repeated(&one, 3), Tensor::f32(&[3, 2], vec![1.0, 2.0, 1.0, 2.0, 1.0, 2.0]).unwrap());
        let table = Tensor::f32(&[4, 1], vec![0.0; 4]).unwrap();
        assert_eq!(repeated(&table, 3), table);
    }
}
