//! Euler steps of rectified flow (Esser et al. 2024).

use super::{Level, Step};
use crate::Error;
use crate::scheduler::{SchedulerConfig, shifted};

/// The steps of diffusers' `FlowMatchEulerDiscreteScheduler`. With a shift that depends on the image, noise levels begin evenly
/// spaced from 1 to one over the count, as the pipelines of such models ask for; else they run down to the shifted level of the first
/// timestep.
pub(super) fn steps(config: &SchedulerConfig, count: usize, tokens: usize) -> Result<Vec<Step>, Error> {
    let total = config.num_train_timesteps as f64;
    let shift = config.shift_for(tokens);
    let least = if config.use_dynamic_shifting { 1.0 / count as f64 } else { shifted(shift, 1.0 / total) };
    let step = (1.0 - least) / (count.max(2) - 1) as f64;
    let mut sigmas: Vec<f64> = (0..count).map(|i| shifted(shift, 1.0 - step * i as f64)).collect();
    if let Some(end) = config.shift_terminal.filter(|end| *end < 1.0 && count > 1) {
        let factor = (1.0 - sigmas[count - 1]) / (1.0 - end);
        sigmas.iter_mut().for_each(|s| *s = 1.0 - (1.0 - *s) / factor);
    }
    sigmas.push(0.0);
    let step =
        |pair: &[f64]| Step { timestep: pair[0] * total, from: Level::of_flow(pair[0]), to: Level::of_flow(pair[1]) };
    Ok(sigmas.windows(2).map(step).collect())
}
