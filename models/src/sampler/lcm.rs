//! Sampling of latent consistency models (Luo et al. 2023, algorithm 3): each step predicts the image and adds new noise to it.

use ndarray::Zip;

use super::{Level, State, Step};
use crate::Error;
use crate::scheduler::SchedulerConfig;

/// Deviation of the data in the boundary conditions of a consistency model (Song et al. 2023, appendix C).
const SIGMA_DATA: f64 = 0.5;

/// The steps of diffusers' `LCMScheduler`: some of those that the model was distilled on, evenly chosen.
pub(super) fn steps(config: &SchedulerConfig, count: usize, _: usize) -> Result<Vec<Step>, Error> {
    let (total, known) = (config.num_train_timesteps, config.original_inference_steps);
    if known == 0 || known > total {
        return Err(Error::Invalid(format!("`original_inference_steps` is {known} and must be in 1..={total}")));
    }
    if count > known {
        return Err(Error::Invalid(format!(
            "{count} sampling steps are not in 1..={known}, the steps that the model was distilled on (`original_inference_steps`)"
        )));
    }
    let schedule = config.noise_schedule()?;
    let stride = known as f64 / count as f64;
    let timesteps: Vec<usize> =
        (0..count).map(|i| (known - (i as f64 * stride) as usize) * (total / known) - 1).collect();
    let level = |t: usize| schedule.alphas_cumprod(t as i64).map(Level::of_variance);
    let step = |i: usize| -> Result<Step, Error> {
        let to = timesteps.get(i + 1).map_or(Ok(Level { alpha: 1.0, sigma: 0.0 }), |t| level(*t))?;
        Ok(Step { timestep: timesteps[i] as f64, from: level(timesteps[i])?, to })
    };
    (0..count).map(step).collect()
}

/// One step: `x = alpha' (c_out x0 + c_skip x) + sigma' z` with new noise `z`.
pub(super) fn update(state: &mut State, step: &Step) {
    let t = step.timestep * state.timestep_scaling;
    let norm = t * t + SIGMA_DATA * SIGMA_DATA;
    let (skip, out) = (SIGMA_DATA * SIGMA_DATA / norm, t / norm.sqrt());
    let to = step.to;
    Zip::from(&mut state.x).and(&state.x0).and(&state.fresh).for_each(|x, &x0, &z| {
        *x = (to.alpha * (out * f64::from(x0) + skip * f64::from(*x)) + to.sigma * f64::from(z)) as f32;
    });
}
