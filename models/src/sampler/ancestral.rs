//! Ancestral sampling (Ho et al. 2020) on the noise levels of Euler steps: of the noise that is left after a step a part is what the model
//! predicts, and the rest is new.

use ndarray::Zip;

use super::euler::levels;
use super::{State, Step};
use crate::Error;
use crate::scheduler::SchedulerConfig;

/// The steps of diffusers' `EulerAncestralDiscreteScheduler`, which knows no other spacing of noise levels and leaves no noise.
pub(super) fn steps(config: &SchedulerConfig, count: usize, _: usize) -> Result<Vec<Step>, Error> {
    let even = SchedulerConfig { use_karras_sigmas: false, ..config.clone() };
    Ok(levels(&even, count)?.to(0.0))
}

/// One step: `x = alpha' x0 + sigma' (k eps + sqrt(1 - k^2) z)` with new noise `z`, where `k` is the noise-to-image ratio after the
/// step, divided by that before.
pub(super) fn update(state: &mut State, step: &Step) {
    let (from, to) = (step.from, step.to);
    let k = (to.sigma / to.alpha) / (from.sigma / from.alpha);
    let (old, new) = (to.sigma * k, to.sigma * (1.0 - k * k).max(0.0).sqrt());
    Zip::from(&mut state.x).and(&state.x0).and(&state.eps).and(&state.fresh).for_each(|x, &x0, &eps, &z| {
        *x = (to.alpha * f64::from(x0) + old * f64::from(eps) + new * f64::from(z)) as f32;
    });
}
