//! The model under training, and what it is taught.

use crate::command::Failure;
use ndarray::{Array1, Array4, Axis, concatenate};
use sara_models::digits::{CLASSES, UNCONDITIONAL};
use sara_models::schedule::NoiseSchedule;
use sara_runtime::executor::Executor;
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::{Tensor, Tensors};

/// Images that the plan computes at a time.
pub(super) const BATCH: usize = 16;
/// Share of the images that are taught without their class, for classifier-free guidance (Ho and Salimans 2022).
const DROPPED: f64 = 0.1;

/// The weights as they are now.
pub(super) struct Student<'e> {
    executor: &'e mut Executor,
}

impl<'e> Student<'e> {
    pub(super) fn of(executor: &'e mut Executor) -> Student<'e> {
        Student { executor }
    }

    /// The first images of a set, all at one timestep, as the model takes them.
    pub(super) fn inputs(images: &Array4<f32>, t: i64, labels: &[i64]) -> Result<Tensors, Failure> {
        let images = images.slice_axis(Axis(0), (..BATCH).into()).to_owned();
        Ok(tensors(images, vec![t; BATCH], labels[..BATCH].to_vec()))
    }

    /// The model's output for one batch.
    pub(super) fn run(&mut self, inputs: &Tensors) -> Result<Tensor, Failure> {
        for (name, tensor) in inputs {
            self.executor.set_input("forward", name, tensor)?;
        }
        self.executor.run("forward")?;
        Ok(self.executor.output("forward", "out_sample")?)
    }

    /// Epsilon for any number of images, each with its own timestep and class.
    pub(super) fn predict(&mut self, x: &Array4<f32>, t: &[i64], labels: &[i64]) -> Result<Array4<f32>, Failure> {
        let mut parts = Vec::new();
        for start in (0..labels.len()).step_by(BATCH) {
            let own: Vec<usize> = (0..BATCH).map(|i| (start + i).min(labels.len() - 1)).collect();
            let pick = |values: &[i64]| own.iter().map(|i| values[*i]).collect();
            let output = self.run(&tensors(x.select(Axis(0), &own), pick(t), pick(labels)))?;
            let part = floats(&output)?;
            let len = BATCH.min(labels.len() - start);
            parts.push(part.slice_axis(Axis(0), (..len).into()).to_owned());
        }
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        concatenate(Axis(0), &views).map_err(|e| Failure::Plain(e.to_string()))
    }
}

fn tensors(images: Array4<f32>, t: Vec<i64>, labels: Vec<i64>) -> Tensors {
    Tensors::from([
        ("sample".to_owned(), Tensor::F32(images.into_dyn())),
        ("timestep".to_owned(), Tensor::I64(Array1::from(t).into_dyn())),
        ("class_labels".to_owned(), Tensor::I64(Array1::from(labels).into_dyn())),
    ])
}

/// A tensor as images.
fn floats(tensor: &Tensor) -> Result<Array4<f32>, Failure> {
    match tensor {
        Tensor::F32(array) => array.clone().into_dimensionality().map_err(|e| Failure::Plain(e.to_string())),
        other => Err(Failure::Plain(format!("the model gives {}, not images", other.dtype()))),
    }
}

/// `n` images of standard normal noise.
pub(super) fn noise(rng: &mut CounterRng, like: &Array4<f32>, n: usize) -> Array4<f32> {
    let (_, c, h, w) = like.dim();
    Array4::from_shape_simple_fn((n, c, h, w), || rng.normal() as f32)
}

/// Training data: batches of noisy images and the noise in them.
pub(super) struct Lesson<'d> {
    images: Array4<f32>,
    labels: &'d [i64],
    schedule: NoiseSchedule,
    seed: u64,
}

impl<'d> Lesson<'d> {
    pub(super) fn new(images: Array4<f32>, labels: &'d [i64], seed: u64) -> Result<Lesson<'d>, Failure> {
        if images.len_of(Axis(0)) != labels.len() || labels.iter().any(|l| *l < 0 || *l >= CLASSES as i64) {
            return Err(Failure::Plain("images and classes do not fit".into()));
        }
        Ok(Lesson { images, labels, schedule: NoiseSchedule::default(), seed })
    }

    /// The batch of step `i`; a function of the seed and of `i` alone.
    pub(super) fn batch(&self, i: u64) -> Result<Tensors, Failure> {
        let mut rng = CounterRng::new(self.seed, 1 << 32 | i);
        let own: Vec<usize> = (0..BATCH).map(|_| rng.below(self.labels.len() as u32) as usize).collect();
        let steps = self.schedule.num_train_timesteps() as u32;
        let t: Vec<i64> = (0..BATCH).map(|_| i64::from(rng.below(steps))).collect();
        let class = |i: &usize, rng: &mut CounterRng| {
            if rng.uniform() < DROPPED { UNCONDITIONAL } else { self.labels[*i] }
        };
        let labels = own.iter().map(|i| class(i, &mut rng)).collect();
        let eps = noise(&mut rng, &self.images, BATCH);
        let noisy = self.schedule.add_noise(&self.images.select(Axis(0), &own), &eps, &t)?;
        let mut batch = tensors(noisy, t, labels);
        batch.insert("target".to_owned(), Tensor::F32(eps.into_dyn()));
        Ok(batch)
    }
}
