//! The training loop's state: SaRA (arXiv 2409.06633) with AdamW on the selected entries.

use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::executor::{Executor, NotFinite};
use crate::rng::CounterRng;
use crate::schedule::Schedule;
use crate::tensor::Tensors;
use sara_kernels::hyper;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

/// Stream of random numbers from which the matrix of the low-rank term is drawn.
const LOW_RANK_STREAM: u64 = 1;

/// Name of the program of a training step.
const TRAIN: &str = "train";

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainOptions {
    /// Learning rate at the top of the schedule.
    pub learning_rate: f64,
    /// Schedule of the learning rate.
    pub lr_scheduler: Schedule,
    /// Steps of warm-up.
    pub lr_warmup_steps: u64,
    /// Optimiser steps.
    pub max_train_steps: u64,
    /// Micro-batches of an optimiser step.
    pub gradient_accumulation_steps: u64,
    /// Decay of the first moment.
    pub adam_beta1: f64,
    /// Decay of the second moment.
    pub adam_beta2: f64,
    /// Added to AdamW's denominator.
    pub adam_epsilon: f64,
    /// Decoupled weight decay.
    pub adam_weight_decay: f64,
    /// Global norm to which gradients are clipped; 0 for no clipping.
    pub max_grad_norm: f64,
    /// Threshold of the selection, for the record: the largest of any weight. Re-selection takes each weight's own from the plan.
    pub threshold: f64,
    /// Before this step, counted from 0, the trained entries of each weight shrink to those that are still below its threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressive_iter: Option<u64>,
    /// Weight of the nuclear norm of the selected values.
    pub lambda_rank: f64,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Decay of the average of the trained values over steps; nothing for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// What is trained on and how it is seen, for the record: a run goes on only with the same.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            learning_rate: 1e-3,
            lr_scheduler: Schedule::Cosine,
            lr_warmup_steps: 0,
            max_train_steps: 1000,
            gradient_accumulation_steps: 1,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            adam_weight_decay: 0.01,
            max_grad_norm: 1.0,
            threshold: 0.0,
            progressive_iter: None,
            lambda_rank: 5e-4,
            seed: 42,
            ema_decay: None,
            data: BTreeMap::new(),
        }
    }
}

impl TrainOptions {
    /// Refuses values that make no sense.
    pub fn check(&self) -> Result<()> {
        let bad =
            |name: &str, value: f64, needs: &str| Err(Error::Option(format!("{name} must be {needs}, not {value}")));
        for (name, value) in [
            ("--learning-rate", self.learning_rate),
            ("--adam-weight-decay", self.adam_weight_decay),
            ("--max-grad-norm", self.max_grad_norm),
            ("--lambda-rank", self.lambda_rank),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return bad(name, value, "a number of 0 or more");
            }
        }
        for (name, value) in [("--adam-beta1", self.adam_beta1), ("--adam-beta2", self.adam_beta2)] {
            if !(0.0..1.0).contains(&value) {
                return bad(name, value, "at least 0 and below 1");
            }
        }
        if !(self.adam_epsilon.is_finite() && self.adam_epsilon > 0.0) {
            return bad("--adam-epsilon", self.adam_epsilon, "above 0");
        }
        if let Some(decay) = self.ema_decay.filter(|d| !(0.0..1.0).contains(d)) {
            return bad("--ema-decay", decay, "at least 0 and below 1");
        }
        if self.gradient_accumulation_steps == 0 {
            return bad("--gradient-accumulation-steps", 0.0, "at least 1");
        }
        if self.max_train_steps == 0 {
            return Err(Error::Option(format!(
                "there is no step to train: a step takes {} batches (--gradient-accumulation-steps); give as many, accumulate fewer, or set --max-train-steps to 1 or more",
                self.gradient_accumulation_steps
            )));
        }
        if i64::try_from(self.seed).is_err() {
            return Err(Error::Option(format!("--seed must be at most {}, not {}", i64::MAX, self.seed)));
        }
        Ok(())
    }
}

/// What a step reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The step, counted from 1.
    pub step: u64,
    /// Mean loss of its micro-batches.
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Entries that train.
    pub trainable: u64,
    /// Wall-clock seconds; on a device with those of making the next batch, if that took longer.
    pub seconds: f64,
    /// Mean loss on held-out data, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// The same for each quarter of the timesteps, that of the least noise first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_quartiles: Option<Vec<f64>>,
}

/// An executor under training.
pub struct Trainer {
    /// The executor.
    pub executor: Executor,
    /// How it trains.
    pub options: TrainOptions,
    /// Steps done.
    pub step: u64,
    /// The average of the trained values, in the order of the plan's entries, if there is one.
    pub ema: Option<Ema>,
}

impl Trainer {
    /// A trainer before its first step.
    pub fn new(executor: Executor, options: TrainOptions) -> Result<Trainer> {
        options.check()?;
        for program in [TRAIN, "update"] {
            if executor.plan().program(program).is_none() {
                return Err(Error::Option(format!("the plan has no program `{program}`; compile it for training")));
            }
        }
        let ema = options.ema_decay.map(|decay| Ema::new(&executor, decay));
        Ok(Trainer { executor, options, step: 0, ema })
    }

    /// Entries that train now.
    pub fn trainable(&self) -> u64 {
        (0..self.executor.plan().sparse.len()).map(|s| self.executor.count(s) as u64).sum()
    }

    /// One optimiser step on as many micro-batches as are accumulated. On an error no weight has changed, and the next step feels
    /// nothing of this one.
    pub fn step(&mut self, micro_batches: &[Tensors]) -> Result<Metrics> {
        self.step_while(micro_batches, || ())
    }

    /// The same; calls `meanwhile` for each micro-batch while a device computes it. On a CPU nothing would run beside it, and it is not
    /// called.
    pub fn step_while(&mut self, micro_batches: &[Tensors], meanwhile: impl FnMut()) -> Result<Metrics> {
        let result = self.try_step(micro_batches, meanwhile);
        if result.is_err() {
            // The error that is known says more than one that follows from it.
            let _ = self.executor.clear_gradients();
        }
        result
    }

    fn try_step(&mut self, micro_batches: &[Tensors], mut meanwhile: impl FnMut()) -> Result<Metrics> {
        let start = Instant::now();
        let wanted = self.options.gradient_accumulation_steps;
        if micro_batches.len() as u64 != wanted {
            return Err(Error::Option(format!(
                "a step needs {wanted} micro-batches and was given {}",
                micro_batches.len()
            )));
        }
        for batch in micro_batches {
            self.check_batch(batch)?;
        }
        if self.options.progressive_iter == Some(self.step) {
            self.executor.reselect()?;
        }
        let learning_rate = self.set_hyper();
        let mut loss = 0.0;
        for batch in micro_batches {
            let program = self.set_inputs(batch)?;
            self.executor.run(&program)?;
            if self.executor.device().is_some() {
                meanwhile();
            }
            let own = self.executor.scalar(&program, "loss")?;
            if !own.is_finite() {
                return Err(self.not_finite("the loss", std::slice::from_ref(batch)));
            }
            loss += own / wanted as f64;
        }
        self.low_rank()?;
        if !self.executor.update()? {
            return Err(self.not_finite("a gradient", micro_batches));
        }
        self.step += 1;
        if let Some(ema) = &mut self.ema {
            self.executor.settle()?;
            ema.update(&self.executor, self.step);
        }
        Ok(Metrics {
            step: self.step,
            loss,
            learning_rate,
            grad_norm: f64::from(self.executor.hyper()[hyper::NORM]),
            trainable: self.trainable(),
            seconds: start.elapsed().as_secs_f64(),
            validation_loss: None,
            validation_quartiles: None,
        })
    }

    /// Names must be exactly the inputs of a training step.
    fn check_batch(&self, batch: &Tensors) -> Result<()> {
        let Some(program) = self.executor.plan().program(TRAIN) else { return Ok(()) };
        let names = || program.inputs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(port) = program.inputs.iter().find(|p| !batch.contains_key(&p.name)) {
            return Err(Error::tensor(&port.name, format!("is missing in the data; a step needs {}", names())));
        }
        if let Some(name) = batch.keys().find(|n| !program.inputs.iter().any(|p| p.name == **n)) {
            return Err(Error::tensor(name, format!("is in the data and not an input; a step needs {}", names())));
        }
        Ok(())
    }

    /// Sets the inputs of the program that takes a batch's shapes, and returns its name.
    fn set_inputs(&mut self, batch: &Tensors) -> Result<Cow<'static, str>> {
        let mut programs = self.executor.plan().programs.iter().filter(|p| p.kind() == TRAIN);
        let program = match programs.find(|p| p.takes(batch)) {
            Some(program) if program.name != TRAIN => Cow::Owned(program.name.clone()),
            // Where none takes them, the main one says what is wrong.
            _ => Cow::Borrowed(TRAIN),
        };
        for (name, tensor) in batch {
            self.executor.set_input(&program, name, tensor)?;
        }
        Ok(program)
    }

    fn set_hyper(&mut self) -> f64 {
        let o = &self.options;
        let rate = o.lr_scheduler.rate(o.learning_rate, self.step, o.lr_warmup_steps, o.max_train_steps);
        let t = (self.step + 1).min(i32::MAX as u64) as i32;
        let values = [
            (hyper::LEARNING_RATE, rate),
            (hyper::BETA1, o.adam_beta1),
            (hyper::BETA2, o.adam_beta2),
            (hyper::REST1, 1.0 - o.adam_beta1),
            (hyper::REST2, 1.0 - o.adam_beta2),
            (hyper::EPSILON, o.adam_epsilon),
            (hyper::WEIGHT_DECAY, o.adam_weight_decay),
            (hyper::CORRECTION1, 1.0 - o.adam_beta1.powi(t)),
            (hyper::CORRECTION2, 1.0 - o.adam_beta2.powi(t)),
            (hyper::MAX_NORM, o.max_grad_norm),
            (hyper::GRADIENT_SCALE, 1.0 / o.gradient_accumulation_steps as f64),
            (hyper::LAMBDA_RANK, o.lambda_rank),
        ];
        let hyper = self.executor.hyper();
        for (slot, value) in values {
            hyper[slot] = value as f32;
        }
        rate
    }

    /// Adds the subgradient of the nuclear norm of one matrix, drawn for this step (method of the paper: one matrix a step).
    fn low_rank(&mut self) -> Result<()> {
        let executor = &self.executor;
        let sparse = executor.plan().sparse.iter().enumerate();
        let mut eligible = sparse.filter(|(s, own)| own.low_rank.is_some() && executor.count(*s) > 0).map(|(s, _)| s);
        let count = eligible.clone().count() as u32;
        if self.options.lambda_rank == 0.0 || count == 0 {
            return Ok(());
        }
        let mut rng = CounterRng::new(self.options.seed ^ self.step.rotate_left(32), LOW_RANK_STREAM);
        match eligible.nth(rng.below(count) as usize) {
            Some(s) => self.executor.run_low_rank(s),
            None => Ok(()),
        }
    }

    /// Names the first NaN, or else the first infinity, by running the micro-batches again.
    fn not_finite(&mut self, what: &'static str, micro_batches: &[Tensors]) -> Error {
        if let Err(error) = self.executor.clear_gradients() {
            return error;
        }
        let mut found: Option<NotFinite> = None;
        for batch in micro_batches {
            match self.set_inputs(batch).and_then(|program| self.executor.find_not_finite(&program)) {
                Err(error) => return error,
                Ok(own) => {
                    let nan = own.as_ref().is_some_and(|f| f.nan);
                    found = if nan { own } else { found.or(own) };
                    if nan {
                        break;
                    }
                }
            }
        }
        let Some(NotFinite { tensor, origin, after, .. }) = found else {
            let tensor = "the low-rank term".to_owned();
            return Error::NotFinite { step: self.step + 1, what, tensor, origin: String::new() };
        };
        let mut origin = if origin.is_empty() { String::new() } else { format!(" (node `{origin}`)") };
        if let Some(after) = after {
            origin += &format!(", after an infinity in `{after}`");
        }
        Error::NotFinite { step: self.step + 1, what, tensor, origin }
    }
}
