//! Pictures from noise.

use super::conditions::Conditions;
use super::denoiser::{Denoiser, Geometry, Sample};
use super::{Error, Pipeline};
use ndarray::Array4;
use sara_models::sampler::{Sampler, guided};
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::{Tensor, Tensors};

/// Stream of random numbers from which the noise of a sampling is drawn.
const NOISE_STREAM: u64 = 16;

/// How to sample.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sampler's name.
    pub sampler: String,
    /// Evaluations of the denoiser, but for those that a sampler adds.
    pub steps: usize,
    /// Strength of classifier-free guidance; 1 for none.
    pub guidance: f32,
}

/// Standard normal latents of one picture: [1, channels, height, width]. A function of the seed.
pub fn noise(seed: u64, channels: usize, height: usize, width: usize) -> Array4<f32> {
    let mut rng = CounterRng::new(seed, NOISE_STREAM);
    Array4::from_shape_simple_fn((1, channels, height, width), || rng.normal() as f32)
}

/// Latents from `noise`, which is standard normal, [1, channels, height, width], for a text and what is to be avoided. `run` evaluates
/// the denoiser. `after` is called after each step.
pub fn latents(
    pipeline: &Pipeline,
    denoiser: &Denoiser,
    settings: &Settings,
    noise: Array4<f32>,
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
        sampler.step(&output.into_dyn())?;
        after();
    }
    sampler.finish().into_dimensionality().map_err(|e| Error::Misfit(e.to_string()))
}
