//! How good a model is at a look: its loss on scans it was not taught, and how far its samples are from real scans.

use super::forward;
use super::student::{BATCH, Student, noise};
use crate::command::Failure;
use ndarray::{Array2, Array4, Axis, s};
use sara_models::digits::{CLASSES, Digits, UNCONDITIONAL};
use sara_models::distance::frechet_distance;
use sara_models::look::Look;
use sara_models::sampler::{Sampler, guided};
use sara_models::schedule::NoiseSchedule;
use sara_models::scheduler::{SchedulerConfig, Spacing};
use sara_runtime::executor::Executor;
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::Tensor;
use serde::Serialize;
use std::path::Path;

/// Samples that are drawn of each digit.
const DRAWN: usize = 16;
/// Rows of them that are shown.
const SHOWN: usize = 3;
/// Steps of sampling.
const STEPS: usize = 25;
/// Strength of classifier-free guidance.
const GUIDANCE: f32 = 2.0;
/// Noise is the same for every model that is judged.
const SEED: u64 = 7;

/// What is known of a model.
#[derive(Clone, Serialize)]
pub(super) struct Verdict {
    /// Mean squared error of epsilon on held-out scans of the new look.
    pub(super) loss_new: f64,
    /// The same on the look it was made for.
    pub(super) loss_old: f64,
    /// Fréchet distance of its samples to scans of the new look, by the reader's features.
    pub(super) distance_new: f64,
    /// The same to scans of the old look.
    pub(super) distance_old: f64,
    /// Share of the samples that the reader takes for the digit that was asked for.
    pub(super) read: f64,
}

/// Someone who knows digits.
pub(super) struct Judge {
    reader: Executor,
    schedule: NoiseSchedule,
    labels: Vec<i64>,
    /// Held-out scans in the new and in the old look.
    held_out: [Array4<f32>; 2],
    /// Features of the other scans, likewise.
    features: [Array2<f32>; 2],
    examples: Vec<Array4<f32>>,
}

impl Judge {
    pub(super) fn new(reader: &Path, digits: &Digits, look: Look, threads: usize) -> Result<Judge, Failure> {
        let mut reader = forward(reader, threads)?;
        let new = look.apply(&digits.train.images);
        let features = [read(&mut reader, &new)?.0, read(&mut reader, &digits.train.images)?.0];
        let first: Vec<usize> =
            (0..CLASSES as i64).filter_map(|c| digits.train.labels.iter().position(|l| *l == c)).collect();
        Ok(Judge {
            reader,
            schedule: NoiseSchedule::default(),
            labels: digits.held_out.labels.clone(),
            held_out: [look.apply(&digits.held_out.images), digits.held_out.images.clone()],
            features,
            examples: vec![new.select(Axis(0), &first)],
        })
    }

    /// A row of real scans in the new look, one of each digit.
    pub(super) fn examples(&self) -> &[Array4<f32>] {
        &self.examples
    }

    /// Judges a model; also returns rows of its samples, a digit in each column.
    pub(super) fn verdict(&mut self, student: &mut Student<'_>) -> Result<(Verdict, Vec<Array4<f32>>), Failure> {
        let loss_new = self.loss_new(student)?;
        let loss_old = self.loss(student, &self.held_out[1])?;
        let (samples, wanted) = self.draw(student)?;
        let (features, logits) = read(&mut self.reader, &samples)?;
        let taken = |row: ndarray::ArrayView1<'_, f32>| {
            row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(class, _)| class as i64)
        };
        let right = logits.outer_iter().zip(&wanted).filter(|(row, want)| taken(*row) == **want).count();
        let verdict = Verdict {
            loss_new,
            loss_old,
            distance_new: frechet_distance(&features, &self.features[0])?,
            distance_old: frechet_distance(&features, &self.features[1])?,
            read: right as f64 / wanted.len() as f64,
        };
        let rows = (0..SHOWN).map(|r| samples.slice(s![r * CLASSES..(r + 1) * CLASSES, .., .., ..]).to_owned());
        Ok((verdict, rows.collect()))
    }

    /// The loss on held-out scans of the new look.
    pub(super) fn loss_new(&self, student: &mut Student<'_>) -> Result<f64, Failure> {
        self.loss(student, &self.held_out[0])
    }

    /// Mean squared error of epsilon, with timesteps spread evenly over the schedule by the golden ratio.
    fn loss(&self, student: &mut Student<'_>, images: &Array4<f32>) -> Result<f64, Failure> {
        let count = self.labels.len();
        let steps = self.schedule.num_train_timesteps() as f64;
        let t: Vec<i64> = (0..count).map(|i| ((i as f64 * 0.618_033_988_749_894_9).fract() * steps) as i64).collect();
        let eps = noise(&mut CounterRng::new(SEED, 0), images, count);
        let noisy = self.schedule.add_noise(images, &eps, &t)?;
        let found = student.predict(&noisy, &t, &self.labels)?;
        let squares = found.iter().zip(&eps).map(|(a, b)| f64::from(a - b).powi(2));
        Ok(squares.sum::<f64>() / eps.len() as f64)
    }

    /// Samples of all digits in turn, and which they are.
    fn draw(&self, student: &mut Student<'_>) -> Result<(Array4<f32>, Vec<i64>), Failure> {
        let wanted: Vec<i64> = (0..DRAWN * CLASSES).map(|i| (i % CLASSES) as i64).collect();
        let start = noise(&mut CounterRng::new(SEED, 1), &self.held_out[0], wanted.len());
        let none = vec![UNCONDITIONAL; wanted.len()];
        let spacing = Some(Spacing::Trailing);
        let config = SchedulerConfig { timestep_spacing: spacing, ..SchedulerConfig::default() };
        let mut sampler = Sampler::new("ddim", &config, STEPS, 0, start.into_dyn())?;
        while let Some((x, t)) = sampler.next() {
            let x = x.clone().into_dimensionality().map_err(|e| Failure::Plain(e.to_string()))?;
            let t = vec![t as i64; wanted.len()];
            let (with, without) = (student.predict(&x, &t, &wanted)?, student.predict(&x, &t, &none)?);
            // DDIM adds no noise.
            sampler.step(&guided(&with, &without, GUIDANCE)?.into_dyn(), || 0.0)?;
        }
        let samples = sampler.finish().into_dimensionality().map_err(|e| Failure::Plain(e.to_string()))?;
        Ok((samples, wanted))
    }
}

/// The reader's features and logits, one row an image.
fn read(reader: &mut Executor, images: &Array4<f32>) -> Result<(Array2<f32>, Array2<f32>), Failure> {
    let mut rows = [Vec::new(), Vec::new()];
    let count = images.len_of(Axis(0));
    for start in (0..count).step_by(BATCH) {
        let own: Vec<usize> = (0..BATCH).map(|i| (start + i).min(count - 1)).collect();
        reader.set_input("forward", "image", &Tensor::F32(images.select(Axis(0), &own).into_dyn()))?;
        reader.run("forward")?;
        for (rows, name) in rows.iter_mut().zip(["features", "logits"]) {
            let output = reader.output("forward", name)?;
            let width = output.len() / BATCH;
            rows.extend_from_slice(&output.to_f32()[..width * BATCH.min(count - start)]);
        }
    }
    let [features, logits] = rows.map(|values| {
        let width = values.len() / count;
        Array2::from_shape_vec((count, width), values).map_err(|e| Failure::Plain(e.to_string()))
    });
    Ok((features?, logits?))
}
