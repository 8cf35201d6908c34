//! DPM-Solver++ of second order with the step before (Lu et al. 2022, "DPM-Solver++", algorithm 2; midpoint form).

use ndarray::Zip;

use super::euler::{interpolated, joined, karras, last_ratio, ratios, timestep_of};
use super::{Level, State, Step, mix};
use crate::Error;
use crate::scheduler::{BetaSchedule, SchedulerConfig, Spacing, shifted};

/// Below so many steps the last one is of first order even where noise is left.
const FEW: usize = 15;

fn timesteps(config: &SchedulerConfig, count: usize) -> Vec<f64> {
    let total = config.num_train_timesteps;
    let whole = |t: f64| t.round_ties_even();
    match config.timestep_spacing.unwrap_or(Spacing::Linspace) {
        Spacing::Linspace => {
            let step = (total - 1) as f64 / count as f64;
            (1..=count).rev().map(|i| whole(i as f64 * step)).collect()
        }
        Spacing::Leading => {
            let stride = total / (count + 1);
            (1..=count).rev().map(|i| ((i * stride + config.steps_offset).min(total - 1)) as f64).collect()
        }
        Spacing::Trailing => super::ddim::trailing(total, count).into_iter().map(|t| t as f64).collect(),
    }
}

/// The steps of diffusers' `DPMSolverMultistepScheduler`.
pub(super) fn steps(config: &SchedulerConfig, count: usize, tokens: usize) -> Result<Vec<Step>, Error> {
    if config.solver_order > 2 {
        return Err(Error::Invalid(format!(
            "`solver_order` is {}, and DPM-Solver++ is of order 2 here",
            config.solver_order
        )));
    }
    if config.is_flow() {
        return Ok(flow(config, count, tokens));
    }
    let ratios = ratios(config)?;
    let mut timesteps = timesteps(config, count);
    let mut found: Vec<f64> = timesteps.iter().map(|t| interpolated(&ratios, *t)).collect();
    if config.use_karras_sigmas {
        found = karras(ratios[ratios.len() - 1], ratios[0], count);
        let cosine = config.beta_schedule == BetaSchedule::SquaredcosCapV2;
        let timestep = |r: &f64| match timestep_of(&ratios, *r) {
            t if cosine => t,
            t => t.round_ties_even(),
        };
        timesteps = found.iter().map(timestep).collect();
    }
    // diffusers hands the model whole timesteps here.
    timesteps.iter_mut().for_each(|t| *t = t.trunc());
    Ok(joined(&timesteps, &found, last_ratio(config, &ratios)))
}

/// The steps of a flow: evenly spaced before the shift.
fn flow(config: &SchedulerConfig, count: usize, tokens: usize) -> Vec<Step> {
    let total = config.num_train_timesteps as f64;
    let shift = config.shift_for(tokens);
    let sigma = |i: usize| shifted(shift, (1.0 - 1.0 / total) * i as f64 / count as f64);
    let sigmas: Vec<f64> = (1..=count).rev().map(sigma).collect();
    let step = |i: usize| Step {
        timestep: (sigmas[i] * total).trunc(),
        from: Level::of_flow(sigmas[i]),
        to: Level::of_flow(sigmas.get(i + 1).copied().unwrap_or(0.0)),
    };
    (0..count).map(step).collect()
}

/// One step: `x = (sigma' / sigma) x - alpha' (exp(-h) - 1) D`, where `D` is the predicted image, continued along the line through
/// the one before.
pub(super) fn update(state: &mut State, step: &Step) {
    let before = state.history.pop();
    let last = state.at + 1 == state.count;
    let first_order = last && (state.count < FEW || step.to.sigma == 0.0);
    match (before, state.before) {
        (Some(before), Some(level)) if !first_order => {
            let h = step.to.lambda() - step.from.lambda();
            let ratio = (step.from.lambda() - level.lambda()) / h;
            let scale = step.to.sigma / step.from.sigma;
            let own = -step.to.alpha * (-h).exp_m1();
            Zip::from(&mut state.x).and(&state.x0).and(&before).for_each(|x, &d0, &d1| {
                let (d0, d1) = (f64::from(d0), f64::from(d1));
                *x = (scale * f64::from(*x) + own * (d0 + 0.5 * (d0 - d1) / ratio)) as f32;
            });
        }
        _ => mix(&mut state.x, step.to, &state.x0, &state.eps),
    }
    state.history.push(std::mem::take(&mut state.x0));
}
