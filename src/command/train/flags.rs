//! The flags of `sara train`, which a TOML file may hold too.

use super::Failure;
use crate::pipeline::batches::Settings;
use crate::pipeline::denoiser::DISTILLED_GUIDANCE;
use sara_models::objective::{Options, Weighting};
use sara_models::scheduler::Prediction;
use sara_runtime::schedule::{Schedule, auto_learning_rate};
use sara_runtime::train::TrainOptions;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// How to train; anything not given comes from the configuration file, then from the defaults.
#[derive(clap::Args, Deserialize, Default, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct Flags {
    /// Learning rate, or `auto` for the paper's 1e-3*exp(-350*threshold). Default auto.
    #[arg(long, value_name = "LR|auto")]
    learning_rate: Option<Rate>,
    /// constant, constant_with_warmup, linear, cosine, cosine_with_restarts or polynomial. Default cosine.
    #[arg(long, value_parser = parse_schedule, value_name = "NAME")]
    lr_scheduler: Option<Schedule>,
    /// Steps of warm-up. Default 0.
    #[arg(long, value_name = "N")]
    lr_warmup_steps: Option<u64>,
    /// Optimiser steps. Default: one pass over the batches.
    #[arg(long, value_name = "N")]
    max_train_steps: Option<u64>,
    /// Batches accumulated into an optimiser step. Default 1.
    #[arg(long, value_name = "N")]
    gradient_accumulation_steps: Option<u64>,
    /// Decay of AdamW's first moment. Default 0.9.
    #[arg(long, value_name = "B")]
    adam_beta1: Option<f64>,
    /// Decay of AdamW's second moment. Default 0.999.
    #[arg(long, value_name = "B")]
    adam_beta2: Option<f64>,
    /// AdamW's epsilon. Default 1e-8.
    #[arg(long, value_name = "E")]
    adam_epsilon: Option<f64>,
    /// Decoupled weight decay of the trained values. Default 0.01.
    #[arg(long, value_name = "D")]
    adam_weight_decay: Option<f64>,
    /// Global norm to which the sparse gradient is clipped; 0 for none. Default 1.
    #[arg(long, value_name = "N")]
    max_grad_norm: Option<f64>,
    /// Before this step, counted from 0, only entries still below the threshold go on training.
    #[arg(long, value_name = "STEP")]
    progressive_iter: Option<u64>,
    /// Weight of the nuclear norm of the selected values. Default 5e-4.
    #[arg(long, value_name = "L")]
    lambda_rank: Option<f64>,
    /// Seed. Default 42.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Average the trained values over steps, and hand back the average.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    use_ema: Option<bool>,
    /// Decay of that average. Default 0.9999, less in the first steps.
    #[arg(long, value_name = "D")]
    ema_decay: Option<f64>,
    /// What the model predicts: epsilon, v_prediction or sample. Default: what the pipeline says.
    #[arg(long, value_parser = parse_prediction, value_name = "TYPE")]
    prediction_type: Option<Prediction>,
    /// Min-SNR weights with this gamma; 5 is usual. Default none.
    #[arg(long, value_name = "GAMMA")]
    snr_gamma: Option<f64>,
    /// Share of noise that is the same for all pixels of a channel; 0.05 to 0.1 is usual. Default 0.
    #[arg(long, value_name = "SHARE")]
    noise_offset: Option<f64>,
    /// Share of noise that is added to the input and not asked for; 0.1 is usual. Default 0.
    #[arg(long, value_name = "SHARE")]
    input_perturbation: Option<f64>,
    /// Noise levels of a flow: none, sigma_sqrt, logit_normal, mode or cosmap. Default none.
    #[arg(long, value_name = "NAME")]
    weighting_scheme: Option<Scheme>,
    /// Mean of logit_normal. Default 0.
    #[arg(long, value_name = "MEAN", allow_hyphen_values = true)]
    logit_mean: Option<f64>,
    /// Standard deviation of logit_normal. Default 1.
    #[arg(long, value_name = "STD")]
    logit_std: Option<f64>,
    /// Strength of mode. Default 1.29.
    #[arg(long, value_name = "SCALE", allow_hyphen_values = true)]
    mode_scale: Option<f64>,
    /// Shift of a flow's noise levels. Default: what the pipeline says.
    #[arg(long, value_name = "SHIFT")]
    flow_shift: Option<f64>,
    /// Guidance that a distilled model is told while it trains. Default 3.5.
    #[arg(long, value_name = "G")]
    guidance_scale: Option<f32>,
    /// Share of captions that are left out. Default 0.
    #[arg(long, value_name = "SHARE")]
    caption_dropout_rate: Option<f64>,
    /// How much pictures of --class-data-dir count. Default 1.
    #[arg(long, value_name = "W")]
    prior_loss_weight: Option<f64>,
    /// Share of the pictures that is held out to measure on. Default 0.
    #[arg(long, value_name = "SHARE")]
    validation_split: Option<f64>,
    /// Measure and draw every so many steps. Default 250.
    #[arg(long, value_name = "N")]
    validation_steps: Option<u64>,
    /// Draw this text at each validation, always from the same noise; repeat for more. While it draws, the VAE takes memory beside
    /// the plan's.
    #[arg(long, value_name = "TEXT")]
    validation_prompt: Option<Vec<String>>,
    /// Pictures of each. Default 1.
    #[arg(long, value_name = "N")]
    num_validation_images: Option<u64>,
    /// Guidance with which they are drawn. Default: that of diffusers' pipeline, such as 7.5 for Stable Diffusion.
    #[arg(long, value_name = "G")]
    validation_guidance_scale: Option<f32>,
}

/// A weighting scheme, as a flag and in TOML.
#[derive(Clone, Copy, Debug)]
struct Scheme(Weighting);

impl std::str::FromStr for Scheme {
    type Err = String;
    fn from_str(text: &str) -> Result<Scheme, String> {
        text.parse().map(Scheme)
    }
}

impl<'de> Deserialize<'de> for Scheme {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Scheme, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

fn parse_prediction(text: &str) -> Result<Prediction, String> {
    let known =
        [("epsilon", Prediction::Epsilon), ("v_prediction", Prediction::VPrediction), ("sample", Prediction::Sample)];
    let found = known.iter().find(|(name, _)| *name == text.replace('-', "_"));
    found.map(|f| f.1).ok_or_else(|| "choose one of epsilon, v_prediction, sample".into())
}

/// The paper's rule is fitted to thresholds up to 5e-3; what it gives for larger ones soon means no learning at all.
const LEAST_RATE: f64 = 1e-6;

/// A learning rate or the paper's rule.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rate {
    Auto,
    Value(f64),
}

impl std::str::FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Rate, String> {
        match text {
            "auto" => Ok(Rate::Auto),
            _ => text.parse().map(Rate::Value).map_err(|_| "write a number or `auto`".into()),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Rate, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(f64),
            Text(String),
        }
        match Either::deserialize(from)? {
            Either::Number(v) => Ok(Rate::Value(v)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

fn parse_schedule(text: &str) -> Result<Schedule, String> {
    let found = Schedule::NAMES.iter().find(|(name, _)| *name == text.replace('-', "_"));
    found.map(|f| f.1).ok_or_else(|| format!("choose one of {}", Schedule::NAMES.map(|n| n.0).join(", ")))
}

impl Flags {
    /// These flags, and those of `other` where they are not given.
    pub(super) fn or(self, other: Flags) -> Flags {
        Flags {
            learning_rate: self.learning_rate.or(other.learning_rate),
            lr_scheduler: self.lr_scheduler.or(other.lr_scheduler),
            lr_warmup_steps: self.lr_warmup_steps.or(other.lr_warmup_steps),
            max_train_steps: self.max_train_steps.or(other.max_train_steps),
            gradient_accumulation_steps: self.gradient_accumulation_steps.or(other.gradient_accumulation_steps),
            adam_beta1: self.adam_beta1.or(other.adam_beta1),
            adam_beta2: self.adam_beta2.or(other.adam_beta2),
            adam_epsilon: self.adam_epsilon.or(other.adam_epsilon),
            adam_weight_decay: self.adam_weight_decay.or(other.adam_weight_decay),
            max_grad_norm: self.max_grad_norm.or(other.max_grad_norm),
            progressive_iter: self.progressive_iter.or(other.progressive_iter),
            lambda_rank: self.lambda_rank.or(other.lambda_rank),
            seed: self.seed.or(other.seed),
            use_ema: self.use_ema.or(other.use_ema),
            ema_decay: self.ema_decay.or(other.ema_decay),
            prediction_type: self.prediction_type.or(other.prediction_type),
            snr_gamma: self.snr_gamma.or(other.snr_gamma),
            noise_offset: self.noise_offset.or(other.noise_offset),
            input_perturbation: self.input_perturbation.or(other.input_perturbation),
            weighting_scheme: self.weighting_scheme.or(other.weighting_scheme),
            logit_mean: self.logit_mean.or(other.logit_mean),
            logit_std: self.logit_std.or(other.logit_std),
            mode_scale: self.mode_scale.or(other.mode_scale),
            flow_shift: self.flow_shift.or(other.flow_shift),
            guidance_scale: self.guidance_scale.or(other.guidance_scale),
            caption_dropout_rate: self.caption_dropout_rate.or(other.caption_dropout_rate),
            prior_loss_weight: self.prior_loss_weight.or(other.prior_loss_weight),
            validation_split: self.validation_split.or(other.validation_split),
            validation_steps: self.validation_steps.or(other.validation_steps),
            validation_prompt: self.validation_prompt.or(other.validation_prompt),
            num_validation_images: self.num_validation_images.or(other.num_validation_images),
            validation_guidance_scale: self.validation_guidance_scale.or(other.validation_guidance_scale),
        }
    }

    pub(super) fn options(&self, threshold: f64, batches: u64) -> Result<TrainOptions, Failure> {
        let d = TrainOptions::default();
        let accumulation = self.gradient_accumulation_steps.unwrap_or(d.gradient_accumulation_steps);
        let auto = auto_learning_rate(threshold);
        let learning_rate = match self.learning_rate {
            Some(Rate::Value(v)) => v,
            Some(Rate::Auto) | None if auto >= LEAST_RATE => auto,
            _ => {
                return Err(Failure::Usage(format!(
                    "the paper's rule gives the learning rate {auto:.1e} for the threshold {threshold:.1e}, at which nothing \
                     would be learned; give --learning-rate"
                )));
            }
        };
        Ok(TrainOptions {
            learning_rate,
            lr_scheduler: self.lr_scheduler.unwrap_or(d.lr_scheduler),
            lr_warmup_steps: self.lr_warmup_steps.unwrap_or(d.lr_warmup_steps),
            max_train_steps: self.max_train_steps.unwrap_or((batches / accumulation.max(1)).max(1)),
            gradient_accumulation_steps: accumulation,
            adam_beta1: self.adam_beta1.unwrap_or(d.adam_beta1),
            adam_beta2: self.adam_beta2.unwrap_or(d.adam_beta2),
            adam_epsilon: self.adam_epsilon.unwrap_or(d.adam_epsilon),
            adam_weight_decay: self.adam_weight_decay.unwrap_or(d.adam_weight_decay),
            max_grad_norm: self.max_grad_norm.unwrap_or(d.max_grad_norm),
            threshold,
            progressive_iter: self.progressive_iter,
            lambda_rank: self.lambda_rank.unwrap_or(d.lambda_rank),
            seed: self.seed.unwrap_or(d.seed),
            ema_decay: self.use_ema.unwrap_or(false).then(|| self.ema_decay.unwrap_or(0.9999)),
            data: BTreeMap::new(),
        })
    }

    /// How the pictures of a cache are seen.
    pub(super) fn seen(&self) -> Settings {
        let d = Options::default();
        Settings {
            objective: Options {
                snr_gamma: self.snr_gamma,
                noise_offset: self.noise_offset.unwrap_or(d.noise_offset),
                input_perturbation: self.input_perturbation.unwrap_or(d.input_perturbation),
                weighting: self.weighting_scheme.map_or(d.weighting, |s| s.0),
                logit_mean: self.logit_mean.unwrap_or(d.logit_mean),
                logit_std: self.logit_std.unwrap_or(d.logit_std),
                mode_scale: self.mode_scale.unwrap_or(d.mode_scale),
            },
            prediction: self.prediction_type,
            flow_shift: self.flow_shift,
            caption_dropout_rate: self.caption_dropout_rate.unwrap_or(0.0),
            prior_loss_weight: self.prior_loss_weight.unwrap_or(1.0),
            validation_split: self.validation_split.unwrap_or(0.0),
            seed: self.seed.unwrap_or_else(|| TrainOptions::default().seed),
        }
    }

    /// What a distilled model is told.
    pub(super) fn guidance(&self) -> f32 {
        self.guidance_scale.unwrap_or(DISTILLED_GUIDANCE)
    }

    /// What is drawn and measured on the way.
    pub(super) fn watched(&self) -> Watched {
        Watched {
            every: self.validation_steps.unwrap_or(250),
            prompts: self.validation_prompt.clone().unwrap_or_default(),
            images: self.num_validation_images.unwrap_or(1),
            guidance: self.validation_guidance_scale,
        }
    }
}

/// What is drawn and measured on the way.
pub(super) struct Watched {
    /// Steps between.
    pub(super) every: u64,
    /// Strength of guidance, if not the family's.
    pub(super) guidance: Option<f32>,
    /// Texts that are drawn.
    pub(super) prompts: Vec<String>,
    /// Pictures of each.
    pub(super) images: u64,
}

pub(super) fn read_config(path: &Path) -> Result<Flags, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::Plain(format!("{}: {e}", path.display())))?;
    parse_config(&text).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))
}

/// The flags that a configuration file's text sets.
fn parse_config(text: &str) -> Result<Flags, String> {
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let hint = unknown_key(e.message()).and_then(nearest_key);
        let hint = hint.map_or(String::new(), |key| format!("did you mean `{key}`?"));
        format!("{e}{hint}")
    })
}

/// Checks the text of a configuration file of `sara train`.
pub fn check_config(text: &str) -> Result<(), String> {
    parse_config(text).map(drop)
}

/// The key that a message of the TOML reader calls unknown.
fn unknown_key(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

/// The key of a configuration file that is most like this one, if any is.
fn nearest_key(key: &str) -> Option<String> {
    let command = <Flags as clap::Args>::augment_args(clap::Command::new(""));
    let keys = command.get_arguments().filter_map(|a| a.get_long()).map(|flag| flag.replace('-', "_"));
    let written = key.to_lowercase().replace('-', "_");
    let scored = keys.map(|key| (edits(&key, &written), key));
    scored.min().filter(|(edits, key)| *edits * 3 <= key.len()).map(|nearest| nearest.1)
}

/// Insertions, deletions and substitutions that turn one text into the other.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let least = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[b.chars().count()]
}
