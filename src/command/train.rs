//! `sara train`: runs a plan over batches.

use super::options::Threads;
use super::{Failure, report};
use indicatif::{ProgressBar, ProgressStyle};
use sara_runtime::adapter::{self, Adapter};
use sara_runtime::executor::Executor;
use sara_runtime::files::write_atomic;
use sara_runtime::metrics::Log;
use sara_runtime::plan::Plan;
use sara_runtime::schedule::{Schedule, auto_learning_rate};
use sara_runtime::tensor::{Tensors, read_safetensors};
use sara_runtime::train::{Metrics, TrainOptions, Trainer};
use sara_runtime::{Error, checkpoint};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The flags; a TOML file given by `--config` holds the same, with underscores.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The plan.
    plan: PathBuf,
    /// Batches: safetensors with the model's inputs and `target`, each with a leading step dimension.
    #[arg(long, value_name = "FILE")]
    batches: PathBuf,
    /// Folder of the run.
    #[arg(long, value_name = "RUN")]
    output_dir: PathBuf,
    /// The model, if it has moved since the plan was made.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    threads: Threads,
    /// Continue from this checkpoint, or from the `latest` of the run.
    #[arg(long, value_name = "DIR|latest")]
    resume_from_checkpoint: Option<PathBuf>,
    /// Save a checkpoint every so many steps.
    #[arg(long, default_value_t = 500, value_name = "N")]
    checkpointing_steps: u64,
    /// Defaults for the flags of this command, in TOML; the command line wins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print each step as a JSON object to stdout.
    #[arg(long)]
    json: bool,
}

/// How to train; anything not given comes from the configuration file, then from the defaults.
#[derive(clap::Args, Deserialize, Default, Clone)]
#[serde(deny_unknown_fields)]
struct Flags {
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
    fn or(self, other: Flags) -> Flags {
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
        }
    }

    fn options(&self, threshold: f64, batches: u64) -> Result<TrainOptions, Failure> {
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
        })
    }
}

/// What `run.toml` holds: where a run came from, and how it was trained.
#[derive(Serialize, Deserialize)]
pub(super) struct RunFile {
    pub(super) plan: PathBuf,
    pub(super) model: PathBuf,
    pub(super) external_data_root: Option<PathBuf>,
    pub(super) batches: PathBuf,
    pub(super) train: TrainOptions,
}

impl RunFile {
    /// Reads `run.toml` of a run folder.
    pub(super) fn read(run: &Path) -> Result<RunFile, Failure> {
        let path = run.join("run.toml");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Failure::Plain(format!("{}: {e}; give the --output-dir of a `sara train`", path.display())))?;
        toml::from_str(&text).map_err(|e| Failure::Plain(format!("{}: {e}", path.display())))
    }
}

/// A path that means the same from any folder.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Path of a run's adapter.
pub(super) fn adapter_path(run: &Path) -> PathBuf {
    run.join("adapter").join("adapter.safetensors")
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let flags = match &args.config {
        None => args.flags.clone(),
        Some(path) => args.flags.clone().or(read_config(path)?),
    };
    let plan = Plan::load(&args.plan)?;
    let (batches, _) = read_safetensors(&args.batches)?;
    let count = batch_count(&args.batches, &batches)?;
    let options = flags.options(plan.selection.threshold, count)?;
    let model = absolute(args.model.as_deref().unwrap_or(&plan.model.path));
    eprintln!("{}", report::selection(&plan));
    options.check().map_err(|e| Failure::Usage(e.to_string()))?;
    check_places(args, &model)?;
    let executor = Executor::new(plan, args.threads.count(), Some(&model))?;
    let mut trainer = Trainer::new(executor, options)?;
    std::fs::create_dir_all(&args.output_dir).map_err(|e| Error::io(&args.output_dir, e))?;
    if let Some(from) = &args.resume_from_checkpoint {
        resume(&mut trainer, from, &args.output_dir)?;
    }
    let run = RunFile {
        plan: absolute(&args.plan),
        model: model.clone(),
        external_data_root: trainer.executor.plan().model.root.clone(),
        batches: absolute(&args.batches),
        train: trainer.options.clone(),
    };
    let text = toml::to_string(&run).map_err(|e| Failure::Plain(e.to_string()))?;
    write_atomic(&args.output_dir.join("run.toml"), |out| out.write_all(text.as_bytes()))?;
    let batch = |i: u64| -> Result<Tensors, Failure> {
        let row = (i % count) as usize;
        Ok(batches.iter().filter_map(|(name, t)| Some((name.clone(), t.at(row)?))).collect())
    };
    let every = args.checkpointing_steps;
    let print = |_: &mut Trainer, metrics: &Metrics| match args.json {
        true => report::json_line(metrics),
        false => Ok(()),
    };
    let ended = train(&mut trainer, batch, &args.output_dir, every, print);
    if !matches!(ended, Ok(_) | Err(Failure::Interrupted(_))) {
        return ended.map(|_| ());
    }
    let values = tuned(&trainer.executor);
    // The executor's memory is given back first: the adapter must not raise the peak that `compile` announced.
    let Trainer { executor, step, .. } = trainer;
    save_adapter(&executor.into_plan(), &values, step, &model, &args.output_dir)?;
    eprintln!("wrote {}", adapter_path(&args.output_dir).display());
    ended.map(|_| ())
}

/// A run must not overwrite another, and needs its model.
fn check_places(args: &Args, model: &Path) -> Result<(), Failure> {
    let out = &args.output_dir;
    let used = out.exists() && (adapter_path(out).exists() || checkpoint::latest(out)?.is_some());
    if used && args.resume_from_checkpoint.is_none() {
        return Err(Failure::Usage(format!(
            "{}: holds a run already; go on with it by --resume-from-checkpoint latest, or choose another --output-dir",
            out.display()
        )));
    }
    if !model.is_file() {
        return Err(Failure::Plain(format!(
            "{}: the model that the plan was compiled from is not there; say where it is with --model",
            model.display()
        )));
    }
    Ok(())
}

/// Trains to the end of the options' steps, with a bar on stderr, a log in the run folder and checkpoints; calls `after` after each
/// step. An interrupt ends it after the step, with a checkpoint.
pub(super) fn train(
    trainer: &mut Trainer,
    batch: impl Fn(u64) -> Result<Tensors, Failure>,
    run: &Path,
    checkpointing_steps: u64,
    mut after: impl FnMut(&mut Trainer, &Metrics) -> Result<(), Failure>,
) -> Result<Vec<Metrics>, Failure> {
    let interrupts = interrupts();
    let total = trainer.options.max_train_steps;
    let mut log = Log::open(&run.join("metrics.jsonl"), trainer.step)?;
    let bar = ProgressBar::new(total).with_style(style());
    bar.set_position(trainer.step);
    let mut all = Vec::new();
    while trainer.step < total {
        let accumulation = trainer.options.gradient_accumulation_steps;
        let first = trainer.step * accumulation;
        let batches: Vec<Tensors> = (first..first + accumulation).map(&batch).collect::<Result<_, _>>()?;
        let metrics = match trainer.step(&batches) {
            Ok(metrics) => metrics,
            Err(error) => {
                bar.abandon();
                return Err(error.into());
            }
        };
        log.write(&metrics)?;
        bar.set_position(metrics.step);
        bar.set_message(format!("loss {:.5}  lr {:.2e}", metrics.loss, metrics.learning_rate));
        after(trainer, &metrics)?;
        all.push(metrics);
        let interrupted = interrupts.load(Ordering::Relaxed) > 0;
        let due = checkpointing_steps > 0 && trainer.step.is_multiple_of(checkpointing_steps);
        if interrupted || due || trainer.step == total {
            let path = checkpoint::save(trainer, run)?;
            if interrupted && trainer.step < total {
                bar.abandon();
                let message = format!("interrupted after step {}; saved {}", trainer.step, path.display());
                return Err(Failure::Interrupted(message));
            }
        }
    }
    bar.finish();
    Ok(all)
}

/// The values that training changed, of each sparse weight of the plan.
pub(super) fn tuned(executor: &Executor) -> Vec<Vec<f32>> {
    (0..executor.plan().sparse.len()).map(|s| executor.values(s)).collect()
}

/// Writes what training changed as the run's adapter.
pub(super) fn save_adapter(
    plan: &Plan,
    values: &[Vec<f32>],
    step: u64,
    model: &Path,
    run: &Path,
) -> Result<Adapter, Failure> {
    let mut adapter = adapter::between(plan, &plan.model.source(Some(model)), values)?;
    let name = model.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    adapter.metadata.extend([
        ("base".to_owned(), name),
        ("base_sha256".to_owned(), plan.model.sha256.clone()),
        ("threshold".to_owned(), plan.selection.threshold.to_string()),
        ("step".to_owned(), step.to_string()),
    ]);
    adapter.write(&adapter_path(run))?;
    Ok(adapter)
}

fn resume(trainer: &mut Trainer, from: &Path, run: &Path) -> Result<(), Failure> {
    let folder = if from == Path::new("latest") {
        checkpoint::latest(run)?
            .map(|(_, path)| path)
            .ok_or_else(|| Failure::Plain(format!("{}: holds no checkpoint to resume from", run.display())))?
    } else {
        from.to_owned()
    };
    if !folder.is_dir() {
        return Err(Failure::Plain(format!(
            "{}: there is no such checkpoint; give a checkpoint-NNNNNN folder of a run, or `latest`",
            folder.display()
        )));
    }
    let wanted = trainer.options.clone();
    checkpoint::load(trainer, &folder)?;
    // More steps than before is what resuming is for; everything else must be as it was.
    let same = TrainOptions { max_train_steps: wanted.max_train_steps, ..trainer.options.clone() };
    if same != wanted {
        return Err(Failure::Plain(format!(
            "{}: was trained with other options; resume with the same flags. It had:\n{}",
            folder.display(),
            toml::to_string(&trainer.options).unwrap_or_default()
        )));
    }
    trainer.options = wanted;
    eprintln!("resumed from {} at step {}", folder.display(), trainer.step);
    Ok(())
}

fn read_config(path: &Path) -> Result<Flags, Failure> {
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

/// Number of steps that a batches file holds: the common first dimension of its tensors.
fn batch_count(path: &Path, batches: &Tensors) -> Result<u64, Failure> {
    let mut sizes = batches.iter().map(|(name, t)| (name, t.shape().first().copied().unwrap_or(0)));
    let Some((_, count)) = sizes.next().filter(|s| s.1 > 0) else {
        return Err(Failure::Plain(format!("{}: holds no batches", path.display())));
    };
    match sizes.find(|s| s.1 != count) {
        None => Ok(count as u64),
        Some((name, other)) => Err(Failure::Plain(format!(
            "{}: tensor `{name}` has {other} steps and others have {count}",
            path.display()
        ))),
    }
}

fn style() -> ProgressStyle {
    let template = "{bar:32} {pos}/{len}  {msg}  {per_sec}  {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Counts interrupts. The first lets the step finish; the second ends the process at once.
fn interrupts() -> &'static AtomicUsize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    static HANDLER: std::sync::Once = std::sync::Once::new();
    HANDLER.call_once(|| {
        // Without a handler an interrupt ends the process, and the last checkpoint stands.
        let _ = ctrlc::set_handler(|| {
            if COUNT.fetch_add(1, Ordering::Relaxed) > 0 {
                std::process::exit(130);
            }
        });
    });
    &COUNT
}
