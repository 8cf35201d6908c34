//! From noise to images. A sampling is a list of steps between noise levels; the samplers differ in which levels they visit and in
//! how they go from one to the next.
//!
//! All of them hold `x = alpha x0 + sigma eps` with `alpha^2 + sigma^2 = 1` (`alpha = 1 - sigma` for flows), also those that the
//! literature writes for `x / alpha`: an Euler step there is a DDIM step here.

mod ancestral;
mod ddim;
mod dpm;
mod euler;
mod flow;
mod heun;
mod lcm;
mod plms;

use ndarray::{ArrayD, Zip};

use crate::scheduler::{Prediction, SchedulerConfig};
use crate::{Error, same_shape};

/// A way to sample.
struct Method {
    /// Its name on the command line.
    name: &'static str,
    /// The classes of diffusers that it is.
    classes: &'static [&'static str],
    /// Whether it samples models of diffusion, and of rectified flow.
    diffusion: bool,
    flow: bool,
    /// What standard normal noise is multiplied by.
    start: fn(&SchedulerConfig, &[Step]) -> f64,
    /// Whether predicted images are clipped where the configuration does not say it; nothing where they never are.
    clips: Option<bool>,
    /// Whether its steps add noise.
    stochastic: bool,
    /// Its steps, from noise to image.
    steps: fn(&SchedulerConfig, usize, usize) -> Result<Vec<Step>, Error>,
    /// One step.
    update: fn(&mut State, &Step),
}

/// What most methods are.
const USUAL: Method = Method {
    name: "",
    classes: &[],
    diffusion: true,
    flow: false,
    start: |_, _| 1.0,
    clips: None,
    stochastic: false,
    steps: ddim::steps,
    update: first_order,
};

static METHODS: [Method; 8] = [
    Method { name: "ddim", classes: &["DDIMScheduler"], clips: Some(true), ..USUAL },
    Method {
        name: "euler",
        classes: &["EulerDiscreteScheduler"],
        start: euler::initial_scale,
        steps: euler::steps,
        ..USUAL
    },
    Method {
        name: "euler_ancestral",
        classes: &["EulerAncestralDiscreteScheduler"],
        start: euler::initial_scale,
        stochastic: true,
        steps: ancestral::steps,
        update: ancestral::update,
        ..USUAL
    },
    Method {
        name: "heun",
        classes: &["HeunDiscreteScheduler"],
        start: euler::initial_scale,
        clips: Some(false),
        steps: heun::steps,
        update: heun::update,
        ..USUAL
    },
    Method {
        name: "dpmpp_2m",
        classes: &["DPMSolverMultistepScheduler"],
        flow: true,
        steps: dpm::steps,
        update: dpm::update,
        ..USUAL
    },
    Method { name: "pndm", classes: &["PNDMScheduler"], steps: plms::steps, update: plms::update, ..USUAL },
    Method {
        name: "lcm",
        classes: &["LCMScheduler"],
        clips: Some(false),
        stochastic: true,
        steps: lcm::steps,
        update: lcm::update,
        ..USUAL
    },
    Method {
        name: "flow_euler",
        classes: &["FlowMatchEulerDiscreteScheduler"],
        diffusion: false,
        flow: true,
        steps: flow::steps,
        ..USUAL
    },
];

/// Names of the samplers.
pub const NAMES: [&str; 8] = ["ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "pndm", "lcm", "flow_euler"];

/// Name of the sampler that a class of diffusers is, if it is one of this crate.
pub fn of_class(class: &str) -> Option<&'static str> {
    METHODS.iter().find(|m| m.classes.contains(&class)).map(|m| m.name)
}

/// How often a sampling of `count` steps evaluates the model. It is an error where [`Sampler::new`] makes one.
pub fn evaluations(name: &str, config: &SchedulerConfig, count: usize) -> Result<usize, Error> {
    Ok(plan(name, config, count, 0)?.1.len())
}

/// A method that fits what the model predicts, and its steps.
fn plan(
    name: &str,
    config: &SchedulerConfig,
    count: usize,
    tokens: usize,
) -> Result<(&'static Method, Vec<Step>), Error> {
    let method = METHODS
        .iter()
        .find(|m| m.name == name)
        .ok_or_else(|| Error::Invalid(format!("there is no sampler `{name}`; choose one of {}", NAMES.join(", "))))?;
    let (fits, kind) = match config.is_flow() {
        true => (method.flow, "rectified flow"),
        false => (method.diffusion, "diffusion"),
    };
    if !fits {
        return Err(Error::Invalid(format!("the sampler {name} does not fit a model of {kind}")));
    }
    let most = config.num_train_timesteps;
    if count == 0 || count > most {
        return Err(Error::Invalid(format!("{count} sampling steps are not in 1..={most}")));
    }
    Ok((method, (method.steps)(config, count, tokens)?))
}

/// Shares of image and noise.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    alpha: f64,
    sigma: f64,
}

impl Level {
    /// The level of a share of the image in the variance.
    fn of_variance(alphas_cumprod: f64) -> Level {
        Level { alpha: alphas_cumprod.sqrt(), sigma: (1.0 - alphas_cumprod).sqrt() }
    }

    /// The level at which noise is so many times the image.
    fn of_ratio(ratio: f64) -> Level {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Level { alpha, sigma: ratio * alpha }
    }

    /// The level of a flow.
    fn of_flow(sigma: f64) -> Level {
        Level { alpha: 1.0 - sigma, sigma }
    }

    /// Half the logarithm of the signal-to-noise ratio.
    fn lambda(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }
}

/// One evaluation of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    timestep: f64,
    from: Level,
    to: Level,
}

/// The array that is sampled, and what the model said of it.
struct State {
    prediction: Prediction,
    /// Bounds of the image that is predicted.
    clip: Option<f64>,
    x: ArrayD<f32>,
    /// What the model said.
    output: ArrayD<f32>,
    /// Image and noise that this stands for.
    x0: ArrayD<f32>,
    eps: ArrayD<f32>,
    /// Standard normal noise of this step, for methods that add some.
    fresh: ArrayD<f32>,
    /// Factor of timesteps in the boundary conditions of a consistency model.
    timestep_scaling: f64,
    /// Number of this step.
    at: usize,
    /// Number of steps.
    count: usize,
    /// What a method remembers of earlier steps.
    history: Vec<ArrayD<f32>>,
    /// The level at which the step before began.
    before: Option<Level>,
}

/// A sampling in progress.
pub struct Sampler {
    method: &'static Method,
    steps: Vec<Step>,
    state: State,
}

impl Sampler {
    /// Starts a sampling of `count` steps from standard normal `noise`. `tokens` is the number of image tokens, on which the noise
    /// levels of some flows depend. It is an error when there is no such sampler, or when it does not fit what the model predicts.
    pub fn new(
        name: &str,
        config: &SchedulerConfig,
        count: usize,
        tokens: usize,
        noise: ArrayD<f32>,
    ) -> Result<Sampler, Error> {
        let (method, steps) = plan(name, config, count, tokens)?;
        let clip = method.clips.is_some_and(|own| config.clip_sample.unwrap_or(own));
        let clip = clip.then_some(config.clip_sample_range);
        let scale = (method.start)(config, &steps) as f32;
        let x = noise * scale;
        let empty = ArrayD::zeros(ndarray::IxDyn(&[0]));
        let state = State {
            prediction: config.prediction(),
            clip,
            x,
            output: empty.clone(),
            x0: empty.clone(),
            eps: empty.clone(),
            fresh: empty,
            timestep_scaling: config.timestep_scaling,
            at: 0,
            count: steps.len(),
            history: Vec::new(),
            before: None,
        };
        Ok(Sampler { method, steps, state })
    }

    /// The timesteps at which the model is evaluated. Flows have theirs in 0..=`num_train_timesteps` too.
    pub fn timesteps(&self) -> Vec<f64> {
        self.steps.iter().map(|s| s.timestep).collect()
    }

    /// What the model is to be evaluated on, and the timestep; nothing after the last step.
    pub fn next(&self) -> Option<(&ArrayD<f32>, f64)> {
        self.steps.get(self.state.at).map(|step| (&self.state.x, step.timestep))
    }

    /// Takes what the model says of [`Sampler::next`]. `normal` gives standard normal numbers to the samplers that add noise. It is an
    /// error when the shape differs.
    pub fn step(&mut self, output: &ArrayD<f32>, mut normal: impl FnMut() -> f32) -> Result<(), Error> {
        let Some(step) = self.steps.get(self.state.at).copied() else {
            return Err(Error::Invalid("the sampling is over".into()));
        };
        same_shape("the model's output", output.shape(), self.state.x.shape())?;
        self.state.take(output.clone(), step.from);
        if self.method.stochastic {
            self.state.fresh = ArrayD::from_shape_simple_fn(output.raw_dim(), &mut normal);
        }
        (self.method.update)(&mut self.state, &step);
        self.state.before = Some(step.from);
        self.state.at += 1;
        Ok(())
    }

    /// The result.
    pub fn finish(self) -> ArrayD<f32> {
        self.state.x
    }
}

impl State {
    /// Takes an output, which stands for an image and noise at this level.
    fn take(&mut self, output: ArrayD<f32>, level: Level) {
        let Level { alpha, sigma } = level;
        (self.x0, self.eps) = (output.clone(), output.clone());
        Zip::from(&mut self.x0).and(&mut self.eps).and(&self.x).for_each(|x0, eps, &x| {
            let (x, out) = (f64::from(x), f64::from(*x0));
            let (image, noise) = match self.prediction {
                Prediction::Epsilon => ((x - sigma * out) / alpha, out),
                Prediction::VPrediction => (alpha * x - sigma * out, alpha * out + sigma * x),
                Prediction::Sample => (out, (x - alpha * out) / sigma),
                Prediction::Flow => (x - sigma * out, x + alpha * out),
            };
            *x0 = self.clip.map_or(image, |range| image.clamp(-range, range)) as f32;
            *eps = noise as f32;
        });
        self.output = output;
    }
}

/// A step of DDIM (Song et al. 2021, equation 12, with sigma 0), which is also an Euler step of the probability flow and of rectified
/// flow.
fn first_order(state: &mut State, step: &Step) {
    mix(&mut state.x, step.to, &state.x0, &state.eps);
}

/// `x = alpha x0 + sigma eps`.
fn mix(x: &mut ArrayD<f32>, level: Level, x0: &ArrayD<f32>, eps: &ArrayD<f32>) {
    let Level { alpha, sigma } = level;
    Zip::from(x).and(x0).and(eps).for_each(|x, &x0, &eps| *x = (alpha * f64::from(x0) + sigma * f64::from(eps)) as f32);
}

/// Classifier-free guidance (Ho and Salimans 2022): `u + guidance (e - u)` for an output `e` with and `u` without the condition. A
/// guidance of 1 is `e` alone. It is an error when the shapes differ.
pub fn guided<D: ndarray::Dimension>(
    conditional: &ndarray::Array<f32, D>,
    unconditional: &ndarray::Array<f32, D>,
    guidance: f32,
) -> Result<ndarray::Array<f32, D>, Error> {
    same_shape("the unconditional prediction", unconditional.shape(), conditional.shape())?;
    Ok(Zip::from(conditional).and(unconditional).map_collect(|&e, &u| u + guidance * (e - u)))
}

#[cfg(test)]
mod tests;
