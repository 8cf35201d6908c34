//! Heun's method on the probability flow (Karras et al. 2022, algorithm 1 without noise): an Euler step, then the same step along the mean
//! of the slopes at both ends.

use ndarray::Zip;

use super::euler::levels;
use super::{State, Step};
use crate::Error;
use crate::scheduler::SchedulerConfig;

/// The steps of diffusers' `HeunDiscreteScheduler`: each but the last is followed by its correction, which is evaluated where it ended.
pub(super) fn steps(config: &SchedulerConfig, count: usize, _: usize) -> Result<Vec<Step>, Error> {
    let euler = levels(config, count)?.to(0.0);
    let mut steps = Vec::with_capacity(2 * count - 1);
    for (i, step) in euler.iter().enumerate() {
        steps.push(*step);
        if let Some(next) = euler.get(i + 1) {
            steps.push(Step { timestep: next.timestep, from: step.to, to: step.to });
        }
    }
    Ok(steps)
}

/// One step or its correction. Between the two the history holds where the step began, divided by its `alpha`, and the slope there.
pub(super) fn update(state: &mut State, step: &Step) {
    let (alpha, ratio) = (step.from.alpha, step.from.sigma / step.from.alpha);
    let end = step.to.sigma / step.to.alpha;
    let mut slope = state.x.clone();
    Zip::from(&mut slope)
        .and(&state.x0)
        .for_each(|s, &x0| *s = ((f64::from(*s) / alpha - f64::from(x0)) / ratio) as f32);
    match (state.history.pop(), state.history.pop(), state.before) {
        (Some(first), Some(start), Some(before)) => {
            let width = end - before.sigma / before.alpha;
            Zip::from(&mut state.x).and(&start).and(&first).and(&slope).for_each(|x, &y, &a, &b| {
                *x = (step.to.alpha * (f64::from(y) + width * 0.5 * (f64::from(a) + f64::from(b)))) as f32;
            });
        }
        _ => {
            let start = state.x.mapv(|x| (f64::from(x) / alpha) as f32);
            Zip::from(&mut state.x).and(&start).and(&slope).for_each(|x, &y, &s| {
                *x = (step.to.alpha * (f64::from(y) + (end - ratio) * f64::from(s))) as f32;
            });
            state.history = vec![start, slope];
        }
    }
}
