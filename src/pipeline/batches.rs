//! Batches of a cache: what a step of training, or a measurement on held-out pictures, is given. Batch `i` is a function of the cache,
//! the settings and `i`, so nothing has to be saved to go on.

use super::Error;
use super::cache::{Cache, Entry};
use super::conditions::Conditions;
use super::denoiser::{Denoiser, Sample as Told};
use super::shapes::{Size, name};
use ndarray::{Array3, Array4, Axis, s, stack};
use sara_compiler::loss::{TARGET, WEIGHT};
use sara_models::objective::{Draw, Objective, Options, Sample};
use sara_models::pipeline::{Pipeline as Folder, VaeConfig};
use sara_models::scheduler::Prediction;
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::{Tensor, Tensors};
use std::collections::BTreeMap;

/// Streams of random numbers.
mod stream {
    pub(super) const ORDER: u64 = 32;
    pub(super) const SAMPLE: u64 = 33;
    pub(super) const LATENTS: u64 = 34;
    pub(super) const NOISE: u64 = 35;
    pub(super) const PERTURBATION: u64 = 36;
    pub(super) const HELD_OUT: u64 = 37;
}

/// Parts of the timesteps on which held-out pictures are measured.
pub const QUARTILES: usize = 4;

/// How pictures are seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Noise, targets and weights.
    pub objective: Options,
    /// What the model predicts, if not what the pipeline says.
    pub prediction: Option<Prediction>,
    /// The shift of a flow's noise levels, if not what the pipeline says.
    pub flow_shift: Option<f64>,
    /// Share of captions that are left out.
    pub caption_dropout_rate: f64,
    /// How much pictures of what the model knew count.
    pub prior_loss_weight: f64,
    /// Share of the pictures that are held out.
    pub validation_split: f64,
    /// Seed of all random numbers.
    pub seed: u64,
}

/// Batches of a cache.
pub struct Batches {
    cache: Cache,
    settings: Settings,
    denoiser: Denoiser,
    vae: VaeConfig,
    objectives: BTreeMap<Size, Objective>,
    batch: usize,
    /// Entries of an epoch, by size; an entry that is repeated is there more than once.
    epoch: BTreeMap<Size, Vec<usize>>,
    held_out: Vec<usize>,
    /// Whether a batch carries weights.
    weighted: bool,
}

/// A measurement: the inputs of a forward program, and what its output should have been.
pub struct Measurement {
    /// The inputs.
    pub inputs: Tensors,
    /// For each sample that counts: the part of the timesteps, and the target.
    pub wanted: Vec<(usize, Array3<f32>)>,
    /// Height and width in pixels.
    pub size: Size,
}

impl Batches {
    /// Batches of so many pictures. `weighted` says whether the plan takes weights.
    pub fn new(
        cache: Cache,
        folder: &Folder,
        denoiser: Denoiser,
        settings: Settings,
        batch: usize,
        weighted: bool,
    ) -> Result<Batches, Error> {
        let vae = folder.vae().cloned().unwrap_or_default();
        let scale = vae.downscale();
        let objective = |size: Size| {
            let tokens = denoiser.tokens(size[0] / scale, size[1] / scale);
            let Settings { objective, prediction, flow_shift, .. } = settings;
            Ok((size, Objective::new(&folder.scheduler, objective, prediction, flow_shift, tokens)?))
        };
        let objectives = cache.sizes().into_iter().map(objective).collect::<Result<_, Error>>()?;
        for (flag, value) in [
            ("--caption-dropout-rate", settings.caption_dropout_rate),
            ("--validation-split", settings.validation_split),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::Misfit(format!("{flag} must be at least 0 and below 1, not {value}")));
            }
        }
        let held_out = held_out(&cache, &settings);
        let epoch = epoch(&cache, &held_out);
        if epoch.is_empty() {
            return Err(Error::Misfit("all pictures are held out; lower --validation-split".into()));
        }
        let weights_needed = settings.objective.snr_gamma.is_some()
            || settings.objective.weighting != sara_models::objective::Weighting::None
            || cache.entries().iter().any(|e| e.prior) && settings.prior_loss_weight != 1.0;
        if weights_needed && !weighted {
            return Err(Error::Misfit(
                "the plan takes no weights for samples; compile it from the pipeline's folder rather than from a model alone".into(),
            ));
        }
        Ok(Batches { cache, settings, denoiser, vae, objectives, batch, epoch, held_out, weighted })
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Batches of an epoch.
    pub fn per_epoch(&self) -> u64 {
        self.epoch.values().map(|list| list.len().div_ceil(self.batch) as u64).sum()
    }

    /// Pictures of an epoch, and those that are held out.
    pub fn pictures(&self) -> (usize, usize) {
        (self.epoch.values().map(Vec::len).sum(), self.held_out.len())
    }

    /// Batch number `i` of the training.
    pub fn batch(&self, i: u64) -> Result<Tensors, Error> {
        let (epoch, at) = (i / self.per_epoch(), (i % self.per_epoch()) as usize);
        let (size, entries) = self.order(epoch).swap_remove(at);
        let (mut samples, mut told) = (Vec::new(), Vec::new());
        for (row, entry) in entries.into_iter().enumerate() {
            let entry = &self.cache.entries()[entry];
            let number = i * self.batch as u64 + row as u64;
            let mut rng = self.rng(number, stream::SAMPLE);
            let dropped = rng.uniform() < self.settings.caption_dropout_rate;
            let channels = self.vae.latent_channels;
            let uniform = rng.uniform();
            let draw =
                Draw { uniform, normal: rng.normal(), offsets: (0..channels).map(|_| rng.normal() as f32).collect() };
            let timestep = self.objectives[&size].timestep(&draw);
            let mut sample = self.sample(entry, number, &draw, timestep)?;
            sample.weight *= if entry.prior { self.settings.prior_loss_weight } else { 1.0 };
            samples.push(sample);
            told.push((self.cache.conditions((!dropped).then_some(entry))?, entry.geometry));
        }
        let mut inputs = self.inputs(&samples, &told)?;
        let targets: Vec<_> = samples.iter().map(|s| s.target.view()).collect();
        let target = self.denoiser.pack(&stacked(&targets, size)?)?;
        inputs.insert(TARGET.to_owned(), Tensor::F32(target));
        if self.weighted {
            let weights: Vec<f32> = samples.iter().map(|s| s.weight as f32).collect();
            inputs.extend(Tensor::f32(&[weights.len()], weights).map(|t| (WEIGHT.to_owned(), t)));
        }
        Ok(inputs)
    }

    /// One batch of each size, to see whether a plan takes them.
    pub fn examples(&self) -> Result<Vec<(Size, Tensors)>, Error> {
        let order = self.order(0);
        let first = |size: &Size| order.iter().position(|batch| batch.0 == *size);
        self.epoch
            .keys()
            .filter_map(|size| Some((*size, first(size)?)))
            .map(|(size, at)| Ok((size, self.batch(at as u64)?)))
            .collect()
    }

    /// Measurements on the held-out pictures: each at one timestep of every quarter, always with the same noise.
    pub fn measurements(&self) -> Result<Vec<Measurement>, Error> {
        let mut list: BTreeMap<Size, Vec<(usize, usize)>> = BTreeMap::new();
        for entry in &self.held_out {
            let of_size = list.entry(self.cache.entries()[*entry].geometry.target).or_default();
            of_size.extend((0..QUARTILES).map(|quartile| (*entry, quartile)));
        }
        let mut found = Vec::new();
        for (size, all) in list {
            for chunk in all.chunks(self.batch) {
                let (mut samples, mut told, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
                for row in 0..self.batch {
                    // The last batch of a size is filled with its first sample, which then does not count again.
                    let (at, quartile) = *chunk.get(row).unwrap_or(&chunk[0]);
                    let entry = &self.cache.entries()[at];
                    let number = (at * QUARTILES + quartile) as u64;
                    let mut rng = CounterRng::new(self.settings.seed ^ number.rotate_left(32), stream::HELD_OUT);
                    let share = (quartile as f64 + rng.uniform()) / QUARTILES as f64;
                    let timestep = self.objectives[&size].timestep_at(share);
                    let draw = Draw { uniform: share, normal: 0.0, offsets: vec![0.0; self.vae.latent_channels] };
                    // Numbers of training samples are small, so those of held-out ones come from the other end.
                    let sample = self.sample(entry, u64::MAX - number, &draw, timestep)?;
                    if row < chunk.len() {
                        wanted.push((quartile, sample.target.clone()));
                    }
                    samples.push(sample);
                    told.push((self.cache.conditions(Some(entry))?, entry.geometry));
                }
                found.push(Measurement { inputs: self.inputs(&samples, &told)?, wanted, size });
            }
        }
        Ok(found)
    }

    /// Mean squared error of each sample that counts, with the part of the timesteps that it is of.
    pub fn errors(&self, measurement: &Measurement, output: &Tensor) -> Result<Vec<(usize, f64)>, Error> {
        let scale = self.vae.downscale();
        let [height, width] = measurement.size.map(|side| side / scale);
        let found = self.denoiser.latents(output, self.vae.latent_channels, height, width)?;
        let error = |(found, (quartile, wanted)): (ndarray::ArrayView3<'_, f32>, &(usize, Array3<f32>))| {
            let squares = found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
            (*quartile, squares.sum::<f64>() / wanted.len() as f64)
        };
        Ok(found.outer_iter().zip(&measurement.wanted).map(error).collect())
    }

    fn rng(&self, number: u64, stream: u64) -> CounterRng {
        CounterRng::new(self.settings.seed ^ number.rotate_left(32), stream)
    }

    /// A picture with noise.
    fn sample(&self, entry: &Entry, number: u64, draw: &Draw, timestep: f64) -> Result<Sample, Error> {
        let moments = self.cache.moments(entry)?;
        let dim = moments.mean.dim();
        let normal = |stream: u64| {
            let mut rng = self.rng(number, stream);
            Array4::from_shape_simple_fn(dim, || rng.normal() as f32)
        };
        let latents = moments.latents(&normal(stream::LATENTS), &self.vae);
        let first = |array: Array4<f32>| array.index_axis_move(Axis(0), 0);
        let objective = &self.objectives[&entry.geometry.target];
        let perturbation = objective.perturbs().then(|| first(normal(stream::PERTURBATION)));
        let noise = first(normal(stream::NOISE));
        let latents = latents.slice(s![0, .., .., ..]);
        Ok(objective.sample(latents, noise, perturbation, timestep, draw)?)
    }

    fn inputs(&self, samples: &[Sample], told: &[(Conditions, super::denoiser::Geometry)]) -> Result<Tensors, Error> {
        let noisy: Vec<_> = samples.iter().map(|s| s.input.view()).collect();
        let size = told.first().map_or([0, 0], |t| t.1.target);
        let timesteps: Vec<f64> = samples.iter().map(|s| s.timestep).collect();
        let told: Vec<Told<'_>> =
            told.iter().map(|(conditions, geometry)| Told { conditions, geometry: *geometry }).collect();
        self.denoiser.inputs(&stacked(&noisy, size)?, &timesteps, &told)
    }

    /// The batches of an epoch, in order: pictures of each size are shuffled and cut into batches, and then the batches are shuffled.
    fn order(&self, epoch: u64) -> Vec<(Size, Vec<usize>)> {
        let mut rng = self.rng(epoch, stream::ORDER);
        let mut batches = Vec::new();
        for (size, entries) in &self.epoch {
            let mut list = entries.clone();
            shuffle(&mut list, &mut rng);
            // The last batch is filled from the beginning.
            let whole = list.len().div_ceil(self.batch) * self.batch;
            list = list.iter().copied().cycle().take(whole).collect();
            batches.extend(list.chunks(self.batch).map(|chunk| (*size, chunk.to_vec())));
        }
        shuffle(&mut batches, &mut rng);
        batches
    }
}

fn stacked(list: &[ndarray::ArrayView3<'_, f32>], size: Size) -> Result<Array4<f32>, Error> {
    stack(Axis(0), list).map_err(|e| Error::Misfit(format!("latents of pictures of {} do not fit: {e}", name(size))))
}

/// Fisher and Yates' shuffle.
fn shuffle<T>(list: &mut [T], rng: &mut CounterRng) {
    for i in (1..list.len()).rev() {
        list.swap(i, rng.below(i as u32 + 1) as usize);
    }
}

/// The entries that are held out: a share of the pictures, mirror images with their originals.
fn held_out(cache: &Cache, settings: &Settings) -> Vec<usize> {
    let own = |entry: &Entry| !entry.prior;
    let mut pictures: Vec<&std::path::Path> =
        cache.entries().iter().filter(|e| own(e)).map(|e| e.picture.as_path()).collect();
    pictures.dedup();
    let wanted = (pictures.len() as f64 * settings.validation_split).ceil() as usize;
    shuffle(&mut pictures, &mut CounterRng::new(settings.seed, stream::HELD_OUT));
    let chosen = &pictures[..wanted.min(pictures.len())];
    let entries = cache.entries().iter().enumerate();
    entries.filter(|(_, e)| own(e) && chosen.contains(&e.picture.as_path())).map(|(i, _)| i).collect()
}

/// The entries of an epoch by size. Pictures of what the model knew are as many as the others: repeated, or the first of them.
fn epoch(cache: &Cache, held_out: &[usize]) -> BTreeMap<Size, Vec<usize>> {
    let entries = || cache.entries().iter().enumerate().filter(|(i, _)| !held_out.contains(i));
    let repeated = |(i, entry): (usize, &Entry)| std::iter::repeat_n(i, entry.repeats);
    let own: Vec<usize> = entries().filter(|(_, e)| !e.prior).flat_map(repeated).collect();
    let prior: Vec<usize> = entries().filter(|(_, e)| e.prior).flat_map(repeated).collect();
    let prior = prior.iter().copied().cycle().take(if prior.is_empty() { 0 } else { own.len().max(1) });
    let mut sizes: BTreeMap<Size, Vec<usize>> = BTreeMap::new();
    for i in own.iter().copied().chain(prior) {
        sizes.entry(cache.entries()[i].geometry.target).or_default().push(i);
    }
    sizes
}
