//! Pictures from noise.

use super::conditions::Conditions;
use super::denoiser::{Denoiser, Geometry, Sample};
use super::network::Network;
use super::{Error, Pipeline};
use ndarray::Array4;
use sara_models::sampler::{Sampler, evaluations, guided};
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::{Tensor, Tensors};

/// Stream of random numbers from which the noise of a sampling is drawn.
const NOISE_STREAM: u64 = 16;
/// Stream of the noise that some samplers add at each step.
const ADDED_STREAM: u64 = 17;

/// What a sampling starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// Standard normal, [1, channels, height, width].
    pub noise: Array4<f32>,
    /// Seed of the noise that the sampler adds on the way, if it adds any.
    pub seed: u64,
}

impl Start {
    /// The start of a seed.
    pub fn new(seed: u64, channels: usize, height: usize, width: usize) -> Start {
        let mut rng = CounterRng::new(seed, NOISE_STREAM);
        Start { noise: Array4::from_shape_simple_fn((1, channels, height, width), || rng.normal() as f32), seed }
    }
}

/// How to sample.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sampler's name.
    pub sampler: String,
    /// Steps; some samplers evaluate the denoiser more than once in each.
    pub steps: usize,
    /// Strength of classifier-free guidance; 1 for none.
    pub guidance: f32,
}

/// A pipeline's denoiser, ready to draw.
pub struct Painter {
    network: Network,
    denoiser: Denoiser,
    settings: Settings,
    evaluations: usize,
}

impl Painter {
    /// Opens the denoiser. Without `guidance`, what is usual for the family.
    pub fn open(pipeline: &Pipeline, sampler: String, steps: usize, guidance: Option<f32>) -> Result<Painter, Error> {
        let evaluations = evaluations(&sampler, &pipeline.folder.scheduler, steps)?;
        let network = pipeline.denoiser()?;
        let guidance = guidance.map_or_else(|| pipeline.guidance(), Ok)?;
        let denoiser = Denoiser::new(&pipeline.folder, network.inputs(), guidance);
        Ok(Painter { network, denoiser, settings: Settings { sampler, steps, guidance }, evaluations })
    }

    /// The same with another network, made of this one.
    pub fn with(self, change: impl FnOnce(Network) -> Network) -> Painter {
        Painter { network: change(self.network), ..self }
    }

    /// How often [`Painter::latents`] calls `after` for one picture.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Latents from noise, as [`latents`] gives them.
    pub fn latents(
        &mut self,
        pipeline: &Pipeline,
        start: Start,
        conditions: [&Conditions; 2],
        after: impl FnMut(),
    ) -> Result<Array4<f32>, Error> {
        let Painter { network, denoiser, settings, .. } = self;
        let run = |inputs: &Tensors| {
            let output = network.run(inputs)?.into_iter().next();
            output.map(|o| o.1).ok_or_else(|| Error::Misfit("the denoiser has no output".into()))
        };
        latents(pipeline, denoiser, settings, start, conditions, run, after)
    }
}

/// Latents for a text and what is to be avoided. `run` evaluates the denoiser. `after` is called after each evaluation.
pub fn latents(
    pipeline: &Pipeline,
    denoiser: &Denoiser,
    settings: &Settings,
    Start { noise, seed }: Start,
    [wanted, avoided]: [&Conditions; 2],
    mut run: impl FnMut(&Tensors) -> Result<Tensor, Error>,
    mut after: impl FnMut(),
) -> Result<Array4<f32>, Error> {
    let (_, channels, height, width) = noise.dim();
    let scale = pipeline.folder.vae().map_or(8, sara_models::pipeline::VaeConfig::downscale);
    let geometry = Geometry::whole(height * scale, width * scale);
    let tokens = denoiser.tokens(height, width);
    let config = &pipeline.folder.scheduler;
    let mut sampler = Sampler::new(&settings.sampler, config, settings.steps, tokens, noise.into_dyn())?;
    let mut rng = CounterRng::new(seed, ADDED_STREAM);
    let both = settings.guidance != 1.0 && !denoiser.distilled();
    while let Some((x, t)) = sampler.next() {
        let x = x.clone().into_dimensionality().map_err(|e| Error::Misfit(e.to_string()))?;
        let mut evaluate = |conditions: &Conditions| {
            let inputs = denoiser.inputs(&x, &[t], &[Sample { conditions, geometry }])?;
            denoiser.latents(&run(&inputs)?, channels, height, width)
        };
        let mut output = evaluate(wanted)?;
        if both {
            output = guided(&output, &evaluate(avoided)?, settings.guidance)?;
        }
        sampler.step(&output.into_dyn(), || rng.normal() as f32)?;
        after();
    }
    sampler.finish().into_dimensionality().map_err(|e| Error::Misfit(e.to_string()))
}
