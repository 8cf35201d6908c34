//! PNDM without Runge-Kutta steps (Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds"): DDIM steps along a
//! combination of the last outputs, as Stable Diffusion 1 was published with.

use ndarray::Zip;

use super::ddim::leading;
use super::{Level, State, Step, mix};
use crate::Error;
use crate::scheduler::{SchedulerConfig, Spacing};

/// Adams-Bashforth weights of the newest prediction and those before it, for two, three and four of them.
const WEIGHTS: [&[f64]; 3] =
    [&[1.5, -0.5], &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0], &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0]];

/// The steps of diffusers' `PNDMScheduler` with `skip_prk_steps`. The first is taken twice, the second time along the mean of both ends.
pub(super) fn steps(config: &SchedulerConfig, count: usize, _: usize) -> Result<Vec<Step>, Error> {
    let schedule = config.noise_schedule()?;
    let total = config.num_train_timesteps;
    let stride = (total / count) as i64;
    let timesteps: Vec<i64> = match config.timestep_spacing.unwrap_or(Spacing::Leading) {
        Spacing::Leading => leading(config, count),
        Spacing::Trailing => super::ddim::trailing(total, count),
        Spacing::Linspace => {
            let step = (total - 1) as f64 / (count.max(2) - 1) as f64;
            (0..count).rev().map(|i| (i as f64 * step).round_ties_even() as i64).collect()
        }
    };
    let last = if config.set_alpha_to_one.unwrap_or(false) { 1.0 } else { schedule.alphas_cumprod(0)? };
    let level =
        |t: i64| if t < 0 { Ok(Level::of_variance(last)) } else { schedule.alphas_cumprod(t).map(Level::of_variance) };
    let mut steps = Vec::with_capacity(count + 1);
    for (i, t) in timesteps.iter().enumerate() {
        let (from, to) = (level(*t)?, level(t - stride)?);
        steps.push(Step { timestep: *t as f64, from, to });
        if i == 0 && count > 1 {
            steps.push(Step { timestep: timesteps[1] as f64, from, to });
        }
    }
    Ok(steps)
}

/// One step. The history holds up to three of the model's outputs, newest last; where the first step began comes before them until that step
/// has been taken again.
pub(super) fn update(state: &mut State, step: &Step) {
    if state.at == 0 {
        state.history.push(state.x.clone());
        mix_along(state, step, &[1.0]);
        return;
    }
    if state.at == 1 {
        state.x = state.history.remove(0);
        mix_along(state, step, &[0.5, 0.5]);
        // The output at the far end of the first step is not one of the history.
        state.history.truncate(1);
        return;
    }
    let count = (state.history.len() + 1).min(4);
    mix_along(state, step, WEIGHTS[count.max(2) - 2]);
}

/// A DDIM step along a weighted sum of this output and those before; this one joins the history.
fn mix_along(state: &mut State, step: &Step, weights: &[f64]) {
    let output = std::mem::take(&mut state.output);
    let mut along = output.mapv(|o| (weights[0] * f64::from(o)) as f32);
    for (weight, before) in weights[1..].iter().zip(state.history.iter().rev()) {
        Zip::from(&mut along).and(before).for_each(|a, &o| *a = (f64::from(*a) + weight * f64::from(o)) as f32);
    }
    state.take(along, step.from);
    mix(&mut state.x, step.to, &state.x0, &state.eps);
    state.history.push(output);
    let excess = state.history.len().saturating_sub(3);
    state.history.drain(..excess);
}
