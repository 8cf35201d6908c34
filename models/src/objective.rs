//! What a diffusion model is trained on: at which timesteps, with which noise, towards what, and how much each sample counts.
//!
//! Random numbers are handed in, so that a sample is a function of them alone.

use std::str::FromStr;

use ndarray::{Array3, ArrayView3, Zip};

use crate::schedule::NoiseSchedule;
use crate::scheduler::{Prediction, SchedulerConfig, shifted};
use crate::{Error, same_shape};

/// How the noise levels of a flow are drawn and weighted (Esser et al. 2024, section 3.1), under the names that diffusers gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weighting {
    /// Evenly.
    #[default]
    None,
    /// Evenly, and weighted by the inverse square of the noise level.
    SigmaSqrt,
    /// By the logistic function of a normal number.
    LogitNormal,
    /// More or less often in the middle.
    Mode,
    /// Evenly, and weighted as the cosine schedule would be.
    Cosmap,
}

impl Weighting {
    const NAMES: [(&'static str, Weighting); 5] = [
        ("none", Weighting::None),
        ("sigma_sqrt", Weighting::SigmaSqrt),
        ("logit_normal", Weighting::LogitNormal),
        ("mode", Weighting::Mode),
        ("cosmap", Weighting::Cosmap),
    ];
}

impl FromStr for Weighting {
    type Err = String;
    fn from_str(text: &str) -> Result<Weighting, String> {
        let found = Weighting::NAMES.iter().find(|(name, _)| *name == text.replace('-', "_"));
        found.map(|f| f.1).ok_or_else(|| format!("choose one of {}", Weighting::NAMES.map(|n| n.0).join(", ")))
    }
}

/// How to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Weights are at most so many times the signal-to-noise ratio (Hang et al. 2023); nothing for weights of 1.
    pub snr_gamma: Option<f64>,
    /// Share of noise that is the same for all pixels of a channel.
    pub noise_offset: f64,
    /// Share of noise that is added to the input and not asked for (Ning et al. 2023).
    pub input_perturbation: f64,
    /// Noise levels of a flow.
    pub weighting: Weighting,
    /// Mean of the normal number of [`Weighting::LogitNormal`].
    pub logit_mean: f64,
    /// Its standard deviation.
    pub logit_std: f64,
    /// Strength of [`Weighting::Mode`].
    pub mode_scale: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            snr_gamma: None,
            noise_offset: 0.0,
            input_perturbation: 0.0,
            weighting: Weighting::None,
            logit_mean: 0.0,
            logit_std: 1.0,
            mode_scale: 1.29,
        }
    }
}

/// The random numbers of a sample, apart from its noise.
#[derive(Clone, Debug)]
pub struct Draw {
    /// In 0..1.
    pub uniform: f64,
    /// Standard normal.
    pub normal: f64,
    /// Standard normal, one for each channel.
    pub offsets: Vec<f32>,
}

/// A sample as the model is trained on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The noisy latents.
    pub input: Array3<f32>,
    /// What the model shall predict.
    pub target: Array3<f32>,
    /// The timestep.
    pub timestep: f64,
    /// How much the sample counts.
    pub weight: f64,
}

/// An objective.
#[derive(Clone, Debug)]
pub struct Objective {
    options: Options,
    prediction: Prediction,
    noise: Noise,
}

#[derive(Clone, Debug)]
enum Noise {
    Diffusion(NoiseSchedule),
    Flow { shift: f64, steps: usize },
}

impl Objective {
    /// The objective of a pipeline with this scheduler. `prediction` and `shift` win over what its configuration says; `tokens` is the
    /// number of image tokens, on which the shift of some flows depends.
    pub fn new(
        config: &SchedulerConfig,
        options: Options,
        prediction: Option<Prediction>,
        shift: Option<f64>,
        tokens: usize,
    ) -> Result<Objective, Error> {
        for (name, value) in [
            ("noise offset", options.noise_offset),
            ("input perturbation", options.input_perturbation),
            ("snr gamma", options.snr_gamma.unwrap_or(0.0)),
            ("logit std", options.logit_std),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::Invalid(format!("the {name} must be a number of 0 or more, not {value}")));
            }
        }
        let flow = config.is_flow();
        if flow && options.snr_gamma.is_some() {
            return Err(Error::Invalid("min-SNR weights are for models of diffusion, and this is one of flow".into()));
        }
        if !flow && options.weighting != Weighting::None {
            return Err(Error::Invalid(
                "weighting schemes are for models of flow, and this is one of diffusion".into(),
            ));
        }
        let noise = if flow {
            let shift = shift.unwrap_or_else(|| config.shift_for(tokens));
            Noise::Flow { shift, steps: config.num_train_timesteps }
        } else {
            Noise::Diffusion(config.noise_schedule()?)
        };
        let own = config.prediction();
        let prediction = if flow { own } else { prediction.unwrap_or(own) };
        Ok(Objective { options, prediction, noise })
    }

    /// The timestep that a draw leads to.
    pub fn timestep(&self, draw: &Draw) -> f64 {
        let u = draw.uniform;
        let Noise::Flow { .. } = &self.noise else { return self.timestep_at(u) };
        let u = match self.options.weighting {
            Weighting::LogitNormal => {
                1.0 / (1.0 + (-(self.options.logit_mean + self.options.logit_std * draw.normal)).exp())
            }
            Weighting::Mode => {
                1.0 - u - self.options.mode_scale * ((std::f64::consts::FRAC_PI_2 * u).cos().powi(2) - 1.0 + u)
            }
            _ => u,
        };
        // diffusers counts noise levels down from 1, as a sampling does.
        self.timestep_at(1.0 - u - f64::EPSILON)
    }

    /// The timestep with this share of the noise levels below it, however training draws them.
    pub fn timestep_at(&self, share: f64) -> f64 {
        match &self.noise {
            Noise::Diffusion(schedule) => {
                let count = schedule.num_train_timesteps() as f64;
                (share * count).floor().clamp(0.0, count - 1.0)
            }
            Noise::Flow { shift, steps } => {
                let count = *steps as f64;
                shifted(*shift, ((share * count).floor() + 1.0).clamp(1.0, count) / count) * count
            }
        }
    }

    /// Latents [channels, height, width] with noise, at a timestep of [`Objective::timestep`].
    pub fn sample(
        &self,
        latents: ArrayView3<'_, f32>,
        mut noise: Array3<f32>,
        perturbation: Option<Array3<f32>>,
        timestep: f64,
        draw: &Draw,
    ) -> Result<Sample, Error> {
        same_shape("the noise", noise.shape(), latents.shape())?;
        if self.options.noise_offset > 0.0 {
            same_shape("the offsets", &[draw.offsets.len()], &latents.shape()[..1])?;
            for (mut channel, offset) in noise.outer_iter_mut().zip(&draw.offsets) {
                let offset = (self.options.noise_offset * f64::from(*offset)) as f32;
                channel.mapv_inplace(|v| v + offset);
            }
        }
        let (alpha, sigma) = self.shares(timestep)?;
        let mut target = noise.clone();
        Zip::from(&mut target).and(&latents).for_each(|eps, &x0| {
            let (e, x) = (f64::from(*eps), f64::from(x0));
            *eps = match self.prediction {
                Prediction::Epsilon => e,
                Prediction::VPrediction => alpha * e - sigma * x,
                Prediction::Sample => x,
                Prediction::Flow => e - x,
            } as f32;
        });
        if let Some(more) = perturbation {
            same_shape("the perturbation", more.shape(), latents.shape())?;
            let share = self.options.input_perturbation as f32;
            Zip::from(&mut noise).and(&more).for_each(|eps, &more| *eps += share * more);
        }
        let mut input = noise;
        Zip::from(&mut input).and(&latents).for_each(|eps, &x0| {
            *eps = (alpha * f64::from(x0) + sigma * f64::from(*eps)) as f32;
        });
        Ok(Sample { input, target, timestep, weight: self.weight(alpha, sigma) })
    }

    /// Whether samples need a perturbation.
    pub fn perturbs(&self) -> bool {
        self.options.input_perturbation > 0.0
    }

    /// Shares of image and noise.
    fn shares(&self, timestep: f64) -> Result<(f64, f64), Error> {
        match &self.noise {
            Noise::Diffusion(schedule) => {
                let a = schedule.alphas_cumprod(timestep as i64)?;
                Ok((a.sqrt(), (1.0 - a).sqrt()))
            }
            Noise::Flow { steps, .. } => {
                let sigma = timestep / *steps as f64;
                Ok((1.0 - sigma, sigma))
            }
        }
    }

    fn weight(&self, alpha: f64, sigma: f64) -> f64 {
        if let Some(gamma) = self.options.snr_gamma {
            let snr = (alpha / sigma).powi(2);
            return match self.prediction {
                Prediction::Epsilon => (gamma / snr).min(1.0),
                Prediction::VPrediction => snr.min(gamma) / (snr + 1.0),
                Prediction::Sample | Prediction::Flow => snr.min(gamma),
            };
        }
        match self.options.weighting {
            Weighting::SigmaSqrt => sigma.powi(-2),
            Weighting::Cosmap => {
                let bottom = 1.0 - 2.0 * sigma + 2.0 * sigma * sigma;
                2.0 / (std::f64::consts::PI * bottom)
            }
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(uniform: f64, normal: f64) -> Draw {
        Draw { uniform, normal, offsets: vec![1.0, -2.0] }
    }

    fn diffusion(rest: &str) -> SchedulerConfig {
        let text = format!(r#"{{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"{rest}}}"#);
        SchedulerConfig::parse(&text).unwrap()
    }

    fn flow() -> SchedulerConfig {
        SchedulerConfig::parse(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#).unwrap()
    }

    fn new(config: &SchedulerConfig, options: Options) -> Objective {
        Objective::new(config, options, None, None, 0).unwrap()
    }

    fn sample(objective: &Objective, t: f64) -> Sample {
        let latents = Array3::from_elem((2, 1, 1), 0.5);
        objective.sample(latents.view(), Array3::from_elem((2, 1, 1), -1.0), None, t, &draw(0.5, 0.0)).unwrap()
    }

    #[test]
    fn targets_are_what_a_sampler_needs() {
        // sqrt(a) and sqrt(1 - a) of diffusers' DDIMScheduler at timestep 500.
        let (alpha, sigma) = (0.525_673_3f32, 0.850_686_9f32);
        for (key, wanted) in [("epsilon", -1.0), ("v_prediction", -alpha - sigma * 0.5), ("sample", 0.5)] {
            let config = diffusion(&format!(r#", "prediction_type": "{key}""#));
            let found = sample(&new(&config, Options::default()), 500.0);
            assert!((found.target[[0, 0, 0]] - wanted).abs() < 1e-5, "{key}");
            assert!((found.input[[0, 0, 0]] - (alpha * 0.5 - sigma)).abs() < 1e-5);
            assert_eq!(found.weight, 1.0);
        }
        let found = sample(&new(&flow(), Options::default()), 250.0);
        assert_eq!((found.target[[0, 0, 0]], found.input[[0, 0, 0]]), (-1.5, 0.75 * 0.5 - 0.25));
    }

    #[test]
    fn min_snr_weights_are_those_of_the_paper() {
        let options = Options { snr_gamma: Some(5.0), ..Options::default() };
        let objective = new(&diffusion(""), options);
        let snr = |t: f64| {
            let (alpha, sigma) = objective.shares(t).unwrap();
            (alpha / sigma).powi(2)
        };
        assert!(snr(50.0) > 5.0 && snr(500.0) < 5.0);
        assert!((sample(&objective, 50.0).weight - 5.0 / snr(50.0)).abs() < 1e-12);
        assert_eq!(sample(&objective, 500.0).weight, 1.0);
        let v = new(&diffusion(r#", "prediction_type": "v_prediction""#), options);
        assert!((sample(&v, 50.0).weight - 5.0 / (snr(50.0) + 1.0)).abs() < 1e-12);
        assert!(Objective::new(&flow(), options, None, None, 0).is_err());
    }

    #[test]
    fn offsets_and_perturbations_reach_what_they_should() {
        let options = Options { noise_offset: 0.1, input_perturbation: 0.5, ..Options::default() };
        let objective = new(&diffusion(""), options);
        let latents = Array3::from_elem((2, 1, 1), 0.0);
        let noise = || Array3::from_elem((2, 1, 1), 1.0f32);
        let found = objective.sample(latents.view(), noise(), Some(noise()), 999.0, &draw(0.0, 0.0)).unwrap();
        assert!((found.target[[0, 0, 0]] - 1.1).abs() < 1e-6 && (found.target[[1, 0, 0]] - 0.8).abs() < 1e-6);
        let sigma = objective.shares(999.0).unwrap().1 as f32;
        assert!((found.input[[0, 0, 0]] - sigma * 1.6).abs() < 1e-5);
    }

    #[test]
    fn timesteps_follow_their_distribution() {
        let objective = new(&diffusion(""), Options::default());
        assert_eq!([0.0, 0.4999, 0.9999].map(|u| objective.timestep(&draw(u, 0.0))), [0.0, 499.0, 999.0]);
        let shifted = new(&flow(), Options::default());
        assert_eq!(shifted.timestep(&draw(0.0, 0.0)), 1000.0);
        assert!((shifted.timestep(&draw(0.5, 0.0)) - 750.0).abs() < 1e-9);
        let normal = new(&flow(), Options { weighting: Weighting::LogitNormal, ..Options::default() });
        assert_eq!(normal.timestep(&draw(0.9, 0.0)), shifted.timestep(&draw(0.5, 0.0)));
        assert!(normal.timestep(&draw(0.9, 2.0)) < normal.timestep(&draw(0.9, -2.0)));
        let mode = new(&flow(), Options { weighting: Weighting::Mode, ..Options::default() });
        // diffusers: 1 - u - 1.29 (cos(pi u / 2)^2 - 1 + u) at u = 0.25.
        let u = 0.25f64;
        let at = 1.0 - u - 1.29 * ((std::f64::consts::FRAC_PI_2 * u).cos().powi(2) - 1.0 + u);
        let sigma = (1000.0 - (at * 1000.0).floor()) / 1000.0;
        assert!((mode.timestep(&draw(u, 0.0)) - 3000.0 * sigma / (1.0 + 2.0 * sigma)).abs() < 1e-9);
        assert!(
            Objective::new(&diffusion(""), Options { weighting: Weighting::Mode, ..Options::default() }, None, None, 0)
                .is_err()
        );
    }
}
