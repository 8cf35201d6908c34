//! What a pipeline's `scheduler/scheduler_config.json` says: how noise is added, what the model predicts, and how its author samples
//! it. The keys and their defaults are those of the diffusers library.

use serde::Deserialize;

use crate::Error;
use crate::json;
use crate::schedule::NoiseSchedule;

/// What a model's output stands for, with `x = alpha x0 + sigma eps`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// `eps` (Ho et al. 2020).
    #[default]
    Epsilon,
    /// `alpha eps - sigma x0` (Salimans and Ho 2022).
    VPrediction,
    /// `x0`.
    Sample,
    /// `eps - x0`, the velocity of rectified flow, for which `alpha = 1 - sigma` (Lipman et al. 2023; Esser et al. 2024).
    #[serde(rename = "flow_prediction")]
    Flow,
}

/// Which timesteps a sampling visits (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Evenly from the first to the last, both included.
    Linspace,
    /// Multiples of the step, from the first.
    Leading,
    /// Multiples of the step, from the last.
    Trailing,
}

/// How betas go from `beta_start` to `beta_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Linearly.
    Linear,
    /// Linearly in their square roots.
    ScaledLinear,
    /// So that the share of the image is a squared cosine (Nichol and Dhariwal 2021); `beta_start` and `beta_end` are not used.
    SquaredcosCapV2,
}

/// What the last step of a sampling leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// No noise.
    Zero,
    /// The noise of the first timestep.
    SigmaMin,
}

/// A scheduler's configuration. Keys that are not here have no effect on training or on the samplers of this crate.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The class that diffusers would use, such as `DDIMScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Timesteps of the training.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// The betas between them.
    pub beta_schedule: BetaSchedule,
    /// All betas; the three keys before are then not used.
    pub trained_betas: Option<Vec<f64>>,
    /// Whether betas are changed so that the last timestep holds noise alone (Lin et al. 2024).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts.
    pub prediction_type: Prediction,
    /// Spacing; each class has a default of its own.
    pub timestep_spacing: Option<Spacing>,
    /// Added to the timesteps of [`Spacing::Leading`].
    pub steps_offset: usize,
    /// Whether the last step of DDIM and PNDM leaves no noise, rather than that of the first timestep. Each has its own default.
    pub set_alpha_to_one: Option<bool>,
    /// Whether DDIM, Heun's method and LCM clip predicted images. Each has its own default.
    pub clip_sample: Option<bool>,
    /// To what they are clipped.
    pub clip_sample_range: f64,
    /// Whether predicted images are clipped to a quantile.
    pub thresholding: bool,
    /// What the last step of Euler and DPM-Solver++ leaves.
    pub final_sigmas_type: FinalSigma,
    /// Whether noise levels are spaced as by Karras et al. 2022.
    pub use_karras_sigmas: bool,
    /// Whether they are spaced exponentially.
    pub use_exponential_sigmas: bool,
    /// Whether they are spaced by a beta distribution.
    pub use_beta_sigmas: bool,
    /// Order of DPM-Solver.
    pub solver_order: usize,
    /// Steps on which a latent consistency model was distilled.
    pub original_inference_steps: usize,
    /// Factor of timesteps in its boundary conditions.
    pub timestep_scaling: f64,
    /// Whether DPM-Solver++ samples a model of rectified flow.
    pub use_flow_sigmas: bool,
    /// Shift of the noise levels of a flow that DPM-Solver++ samples.
    pub flow_shift: f64,
    /// Shift of the noise levels of a flow (Esser et al. 2024, section 5.3.2).
    pub shift: f64,
    /// Whether the shift depends on the number of image tokens.
    pub use_dynamic_shifting: bool,
    /// Logarithm of the dynamic shift at `base_image_seq_len` tokens.
    pub base_shift: Option<f64>,
    /// Logarithm of the dynamic shift at `max_image_seq_len` tokens.
    pub max_shift: Option<f64>,
    /// Tokens of the smallest image.
    pub base_image_seq_len: usize,
    /// Tokens of the largest image.
    pub max_image_seq_len: usize,
    /// Noise level at which a flow's sampling is stretched to end.
    pub shift_terminal: Option<f64>,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            class_name: "DDIMScheduler".into(),
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: None,
            clip_sample: None,
            clip_sample_range: 1.0,
            thresholding: false,
            final_sigmas_type: FinalSigma::Zero,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            solver_order: 2,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            use_flow_sigmas: false,
            flow_shift: 1.0,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: Some(0.5),
            max_shift: Some(1.15),
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            shift_terminal: None,
        }
    }
}

impl SchedulerConfig {
    /// Reads the text of a `scheduler_config.json`.
    pub fn parse(text: &str) -> Result<SchedulerConfig, Error> {
        let config: SchedulerConfig = json::from_str(text).map_err(|e| Error::Invalid(e.to_string()))?;
        let refused = [
            ("thresholding", config.thresholding),
            ("use_exponential_sigmas", config.use_exponential_sigmas),
            ("use_beta_sigmas", config.use_beta_sigmas),
        ];
        if let Some((key, _)) = refused.iter().find(|(_, on)| *on) {
            return Err(Error::Invalid(format!("`{key}` is not supported; set it to false")));
        }
        let positive = [
            ("shift", config.shift),
            ("flow_shift", config.flow_shift),
            ("clip_sample_range", config.clip_sample_range),
            ("timestep_scaling", config.timestep_scaling),
        ];
        if let Some((key, value)) = positive.iter().find(|(_, v)| !(v.is_finite() && *v > 0.0)) {
            return Err(Error::Invalid(format!("`{key}` is {value} and must be above 0")));
        }
        if config.num_train_timesteps == 0 || config.num_train_timesteps > 1_000_000 {
            let count = config.num_train_timesteps;
            return Err(Error::Invalid(format!("`num_train_timesteps` is {count} and must be in 1..=1000000")));
        }
        Ok(config)
    }

    /// Whether the model is one of rectified flow: noise levels are then sigmas in 0..1 and there are no betas.
    pub fn is_flow(&self) -> bool {
        self.class_name.starts_with("FlowMatch") || self.use_flow_sigmas || self.prediction_type == Prediction::Flow
    }

    /// What the model predicts.
    pub fn prediction(&self) -> Prediction {
        if self.is_flow() { Prediction::Flow } else { self.prediction_type }
    }

    /// The noise of each timestep, for models that are no flows.
    pub fn noise_schedule(&self) -> Result<NoiseSchedule, Error> {
        let betas = match &self.trained_betas {
            Some(betas) => betas.clone(),
            None => betas(self.beta_schedule, self.beta_start, self.beta_end, self.num_train_timesteps),
        };
        if betas.len() != self.num_train_timesteps {
            let (found, wanted) = (betas.len(), self.num_train_timesteps);
            return Err(Error::Invalid(format!("`trained_betas` holds {found} numbers for {wanted} timesteps")));
        }
        let schedule = NoiseSchedule::from_betas(&betas)?;
        Ok(if self.rescale_betas_zero_snr { schedule.zero_terminal_snr() } else { schedule })
    }

    /// The shift of a flow's noise levels for an image of so many tokens.
    pub fn shift_for(&self, tokens: usize) -> f64 {
        match (self.use_dynamic_shifting, self.base_shift, self.max_shift) {
            (true, Some(base), Some(max)) => {
                let (least, most) = (self.base_image_seq_len as f64, self.max_image_seq_len as f64);
                let slope = (max - base) / (most - least).max(1.0);
                (base + slope * (tokens as f64 - least)).exp()
            }
            _ if self.use_flow_sigmas => self.flow_shift,
            _ => self.shift,
        }
    }
}

/// A flow's noise level, shifted.
pub(crate) fn shifted(shift: f64, sigma: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

fn betas(schedule: BetaSchedule, start: f64, end: f64, count: usize) -> Vec<f64> {
    let line = |from: f64, to: f64| {
        let step = (to - from) / (count.max(2) - 1) as f64;
        (0..count).map(move |i| from + step * i as f64)
    };
    match schedule {
        BetaSchedule::Linear => line(start, end).collect(),
        BetaSchedule::ScaledLinear => line(start.sqrt(), end.sqrt()).map(|b| b * b).collect(),
        BetaSchedule::SquaredcosCapV2 => {
            let bar = |i: usize| {
                let t = (i as f64 / count as f64 + 0.008) / 1.008;
                (t * std::f64::consts::FRAC_PI_2).cos().powi(2)
            };
            (0..count).map(|i| (1.0 - bar(i + 1) / bar(i)).min(0.999)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// diffusers saves DPM-Solver's settings with a number that JSON does not have.
    #[test]
    fn settings_as_python_writes_them_are_read() {
        let text =
            r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "beta_end": 0.02}"#;
        let config = SchedulerConfig::parse(text).unwrap();
        assert_eq!((config.class_name.as_str(), config.beta_end), ("DPMSolverMultistepScheduler", 0.02));
    }

    #[test]
    fn betas_are_those_of_diffusers() {
        // DDIMScheduler(..).alphas_cumprod of diffusers 0.42.
        let text = |rest: &str| {
            format!(r#"{{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, {rest}}}"#)
        };
        for (rest, t, wanted) in [
            (r#""beta_schedule": "scaled_linear""#, 0, 0.999_149_98),
            (r#""beta_schedule": "scaled_linear""#, 500, 0.276_332_47),
            (r#""beta_schedule": "scaled_linear""#, 999, 0.004_660_095),
            (r#""beta_schedule": "squaredcos_cap_v2""#, 500, 0.492_285_04),
            (r#""beta_schedule": "scaled_linear", "rescale_betas_zero_snr": true"#, 500, 0.241_018_64),
            (r#""beta_schedule": "scaled_linear", "rescale_betas_zero_snr": true"#, 999, 0.0),
        ] {
            let schedule = SchedulerConfig::parse(&text(rest)).unwrap().noise_schedule().unwrap();
            let found = schedule.alphas_cumprod(t).unwrap();
            assert!((found - wanted).abs() < 5e-7, "{rest} {t}: {found}, not {wanted}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "{",
            r#"{"thresholding": true}"#,
            r#"{"prediction_type": "score"}"#,
            r#"{"num_train_timesteps": 0}"#,
            r#"{"shift": -1.0}"#,
        ] {
            assert!(SchedulerConfig::parse(text).is_err(), "{text}");
        }
        assert!(SchedulerConfig::parse(r#"{"trained_betas": [0.1]}"#).unwrap().noise_schedule().is_err());
    }

    #[test]
    fn a_dynamic_shift_is_between_its_ends() {
        let text = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#;
        let config = SchedulerConfig::parse(text).unwrap();
        assert!(config.is_flow());
        assert!((config.shift_for(256) - 0.5f64.exp()).abs() < 1e-12);
        assert!((config.shift_for(4096) - 1.15f64.exp()).abs() < 1e-12);
    }
}
