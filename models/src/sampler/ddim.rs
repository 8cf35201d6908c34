//! DDIM (Song et al. 2021, "Denoising Diffusion Implicit Models").

use super::{Level, Step};
use crate::Error;
use crate::scheduler::{SchedulerConfig, Spacing};

/// Steps of one stride each, as diffusers' `DDIMScheduler` takes them.
pub(super) fn steps(config: &SchedulerConfig, count: usize, _: usize) -> Result<Vec<Step>, Error> {
    let schedule = config.noise_schedule()?;
    let total = config.num_train_timesteps;
    let stride = (total / count) as i64;
    let last = schedule.alphas_cumprod(0)?;
    let timesteps: Vec<i64> = match config.timestep_spacing.unwrap_or(Spacing::Leading) {
        Spacing::Linspace => {
            let step = (total - 1) as f64 / (count.max(2) - 1) as f64;
            (0..count).rev().map(|i| (i as f64 * step).round_ties_even() as i64).collect()
        }
        Spacing::Leading => leading(config, count),
        Spacing::Trailing => trailing(total, count),
    };
    let step = |t: i64| -> Result<Step, Error> {
        let to = match t - stride {
            before if before >= 0 => schedule.alphas_cumprod(before)?,
            _ if config.set_alpha_to_one.unwrap_or(true) => 1.0,
            _ => last,
        };
        let from = Level::of_variance(schedule.alphas_cumprod(t)?);
        Ok(Step { timestep: t as f64, from, to: Level::of_variance(to) })
    };
    timesteps.into_iter().map(step).collect()
}

/// Multiples of the stride, from the first timestep, moved by `steps_offset`.
pub(super) fn leading(config: &SchedulerConfig, count: usize) -> Vec<i64> {
    let stride = config.num_train_timesteps / count;
    let last = config.num_train_timesteps - 1;
    (0..count).rev().map(|i| (i * stride + config.steps_offset).min(last) as i64).collect()
}

/// Multiples of the stride, from the last timestep.
pub(super) fn trailing(total: usize, count: usize) -> Vec<i64> {
    let stride = total as f64 / count as f64;
    (0..count).map(|i| (total as f64 - i as f64 * stride).round_ties_even() as i64 - 1).collect()
}
