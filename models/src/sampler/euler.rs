//! Euler steps of the probability flow (Karras et al. 2022, algorithm 1 without noise), on noise levels that are interpolated between
//! timesteps.

use super::ddim::{leading, trailing};
use super::{Level, Step};
use crate::Error;
use crate::scheduler::{FinalSigma, SchedulerConfig, Spacing};

/// Exponent of the spacing of Karras et al. 2022, equation 5.
const RHO: f64 = 7.0;

/// The steps of diffusers' `EulerDiscreteScheduler`.
pub(super) fn steps(config: &SchedulerConfig, count: usize, _: usize) -> Result<Vec<Step>, Error> {
    let levels = levels(config, count)?;
    Ok(levels.to(last_ratio(config, &levels.schedule)))
}

/// The noise levels that are visited.
pub(super) struct Levels {
    timesteps: Vec<f64>,
    /// How many times the image the noise is at each.
    ratios: Vec<f64>,
    /// The same of all timesteps of the schedule.
    schedule: Vec<f64>,
}

impl Levels {
    /// Steps through the levels and then to this ratio.
    pub(super) fn to(&self, last: f64) -> Vec<Step> {
        joined(&self.timesteps, &self.ratios, last)
    }
}

/// The levels that a configuration asks for.
pub(super) fn levels(config: &SchedulerConfig, count: usize) -> Result<Levels, Error> {
    let ratios = ratios(config)?;
    let total = config.num_train_timesteps;
    let whole = |list: Vec<i64>| list.into_iter().map(|t| t as f64).collect();
    let mut timesteps: Vec<f64> = match config.timestep_spacing.unwrap_or(Spacing::Linspace) {
        Spacing::Linspace => {
            let step = (total - 1) as f64 / (count.max(2) - 1) as f64;
            // One step alone is the one of the least noise, as for `numpy.linspace`.
            (0..count).rev().map(|i| i as f64 * step).collect()
        }
        Spacing::Leading => whole(leading(config, count)),
        Spacing::Trailing => whole(trailing(total, count)),
    };
    let mut found: Vec<f64> = timesteps.iter().map(|t| interpolated(&ratios, *t)).collect();
    if config.use_karras_sigmas {
        found = karras(found[0], found[count - 1], count);
        timesteps = found.iter().map(|r| timestep_of(&ratios, *r)).collect();
    }
    Ok(Levels { timesteps, ratios: found, schedule: ratios })
}

/// What standard normal noise is multiplied by. Where the first timestep is the last of the schedule, diffusers takes the noise alone
/// for what is mostly noise; it adds a share of an empty image otherwise.
pub(super) fn initial_scale(config: &SchedulerConfig, steps: &[Step]) -> f64 {
    match config.timestep_spacing.unwrap_or(Spacing::Linspace) {
        Spacing::Leading => 1.0,
        Spacing::Linspace | Spacing::Trailing => steps[0].from.sigma,
    }
}

/// How many times the image the noise is, at each timestep.
pub(super) fn ratios(config: &SchedulerConfig) -> Result<Vec<f64>, Error> {
    let schedule = config.noise_schedule()?;
    // A last timestep of noise alone has no ratio; diffusers gives it this share of the image.
    const LEAST: f64 = 1.0 / 16_777_216.0;
    (0..config.num_train_timesteps as i64)
        .map(|t| schedule.alphas_cumprod(t).map(|a| ((1.0 - a.max(LEAST)) / a.max(LEAST)).sqrt()))
        .collect()
}

/// The ratio that a sampling ends with.
pub(super) fn last_ratio(config: &SchedulerConfig, ratios: &[f64]) -> f64 {
    match config.final_sigmas_type {
        FinalSigma::Zero => 0.0,
        FinalSigma::SigmaMin => ratios[0],
    }
}

/// The ratio at a timestep between two.
pub(super) fn interpolated(ratios: &[f64], t: f64) -> f64 {
    let below = (t.max(0.0) as usize).min(ratios.len() - 1);
    let above = (below + 1).min(ratios.len() - 1);
    ratios[below] + (ratios[above] - ratios[below]) * (t - below as f64).clamp(0.0, 1.0)
}

/// Ratios from `most` to `least`, spaced as by Karras et al. 2022, equation 5.
pub(super) fn karras(most: f64, least: f64, count: usize) -> Vec<f64> {
    let (most, least) = (most.powf(1.0 / RHO), least.powf(1.0 / RHO));
    let step = (least - most) / (count.max(2) - 1) as f64;
    (0..count).map(|i| (most + step * i as f64).powf(RHO)).collect()
}

/// The timestep of a ratio, by interpolation of logarithms.
pub(super) fn timestep_of(ratios: &[f64], ratio: f64) -> f64 {
    let low = ratios.partition_point(|r| *r <= ratio).saturating_sub(1).min(ratios.len().saturating_sub(2));
    let high = (low + 1).min(ratios.len() - 1);
    let (below, above) = (ratios[low].ln(), ratios[high].ln());
    let share = if above > below { (ratio.max(1e-10).ln() - below) / (above - below) } else { 0.0 };
    low as f64 + share.clamp(0.0, 1.0)
}

/// Steps through these ratios and then to `last`.
pub(super) fn joined(timesteps: &[f64], ratios: &[f64], last: f64) -> Vec<Step> {
    let ends = ratios.iter().skip(1).copied().chain([last]);
    let step = |((timestep, from), to): ((&f64, &f64), f64)| Step {
        timestep: *timestep,
        from: Level::of_ratio(*from),
        to: Level::of_ratio(to),
    };
    timesteps.iter().zip(ratios).zip(ends).map(step).collect()
}
