//! `sara train`: runs a plan over batches.

mod data;
mod flags;
mod signals;
mod space;
mod summary;
mod watch;

pub use flags::check_config;

use super::options::{On, Threads};
use super::{Failure, report};
use data::{Data, Opened, Source};
use flags::Flags;
use indicatif::{ProgressBar, ProgressStyle};
use sara_models::events::Events;
use sara_runtime::adapter::{self, Adapter};
use sara_runtime::executor::Executor;
use sara_runtime::files::write_atomic;
use sara_runtime::metrics::Log;
use sara_runtime::plan::Plan;
use sara_runtime::tensor::Tensors;
use sara_runtime::train::{Metrics, TrainOptions, Trainer};
use sara_runtime::{Error, checkpoint};
use serde::{Deserialize, Serialize};
use signals::Signals;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
pub(super) use summary::Summary;
use watch::Watch;

/// The flags; a TOML file given by `--config` holds the same, with underscores.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The plan.
    plan: PathBuf,
    #[command(flatten)]
    source: Source,
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
    #[command(flatten)]
    on: On,
    /// Continue from this checkpoint, or from the `latest` of the run.
    #[arg(long, value_name = "DIR|latest")]
    resume_from_checkpoint: Option<PathBuf>,
    /// Save a checkpoint every so many steps.
    #[arg(long, default_value_t = 500, value_name = "N")]
    checkpointing_steps: u64,
    /// Keep this many of the newest checkpoints.
    #[arg(long, default_value = "2", value_name = "N")]
    checkpoints_total_limit: NonZeroUsize,
    /// Defaults for the flags of this command, in TOML; the command line wins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print each step as a JSON object to stdout.
    #[arg(long)]
    json: bool,
}

/// What `run.toml` holds: where a run came from, and how it was trained.
#[derive(Serialize, Deserialize)]
pub(super) struct RunFile {
    pub(super) plan: PathBuf,
    pub(super) model: PathBuf,
    pub(super) external_data_root: Option<PathBuf>,
    pub(super) batches: Option<PathBuf>,
    pub(super) cache: Option<PathBuf>,
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
        Some(path) => args.flags.clone().or(flags::read_config(path)?),
    };
    let plan = Plan::load(&args.plan)?;
    let model = absolute(args.model.as_deref().unwrap_or(&plan.model.path));
    eprintln!("{}", report::selection(&plan));
    check_places(args, &model)?;
    let threads = args.threads.count();
    let Opened { data, pipeline, identity } = Data::open(&args.source, &flags, &plan, &model, threads)?;
    let options = TrainOptions { data: identity, ..flags.options(plan.selection.threshold, data.per_epoch())? };
    options.check().map_err(|e| Failure::Usage(e.to_string()))?;
    let executor = Executor::on(plan, threads, Some(&model), args.on.open()?)?;
    let mut trainer = Trainer::new(executor, options)?;
    std::fs::create_dir_all(&args.output_dir).map_err(|e| Error::io(&args.output_dir, e))?;
    if let Some(from) = &args.resume_from_checkpoint {
        resume(&mut trainer, from, &args.output_dir)?;
    }
    let saving = Saving { every: args.checkpointing_steps, keep: args.checkpoints_total_limit.get() };
    check_room(&trainer, saving, &data, &flags, &args.output_dir)?;
    let run = RunFile {
        plan: absolute(&args.plan),
        model: model.clone(),
        external_data_root: trainer.executor.plan().model.root.clone(),
        batches: args.source.batches.as_deref().map(absolute),
        cache: args.source.cache.as_deref().map(absolute),
        train: trainer.options.clone(),
    };
    let text = toml::to_string(&run).map_err(|e| Failure::Plain(e.to_string()))?;
    write_atomic(&args.output_dir.join("run.toml"), |out| out.write_all(text.as_bytes()))?;
    if let Data::Cache(batches) = &data {
        let (pictures, held_out) = batches.pictures();
        eprintln!("{pictures} pictures an epoch in {} batches, {held_out} held out", batches.per_epoch());
    }
    let seed = trainer.options.seed;
    let mut watch = match pipeline {
        Some(pipeline) => Watch::new(pipeline, &data, flags.watched(), seed, &args.output_dir)?,
        None => None,
    };
    if let Some(watch) = watch.as_mut().filter(|_| trainer.step == 0) {
        watch.look(&mut trainer, &data, None, 0)?;
    }
    let last = trainer.options.max_train_steps;
    let mut events = Events::create(&args.output_dir.join("logs"), now())?;
    let after = |trainer: &mut Trainer, metrics: &mut Metrics| {
        let step = metrics.step;
        if let Some(watch) = watch.as_mut().filter(|w| w.due(step, last)) {
            for (path, png, size) in watch.look(trainer, &data, Some(metrics), step)? {
                let tag = path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
                // Tags are the same for all steps.
                let tag = tag.splitn(3, '-').nth(2).unwrap_or_default();
                events.picture(now(), step, &format!("samples/{tag}"), &png, size)?;
            }
        }
        let measured = metrics.validation_loss.map(|v| ("validation_loss", v));
        let scalars = [
            ("loss", metrics.loss),
            ("learning_rate", metrics.learning_rate),
            ("grad_norm", metrics.grad_norm),
            ("trainable", metrics.trainable as f64),
        ];
        events.scalars(now(), step, &scalars.into_iter().chain(measured).collect::<Vec<_>>())?;
        if args.json { report::json_line(metrics) } else { Ok(()) }
    };
    let ended = train(&mut trainer, |i| data.batch(i), &args.output_dir, saving, after);
    if !matches!(ended, Ok(_) | Err(Failure::Interrupted { .. })) {
        return ended.map(|_| ());
    }
    trainer.executor.settle()?;
    let values = match &trainer.ema {
        Some(ema) => ema.values().to_vec(),
        None => tuned(&trainer.executor),
    };
    // The executor's memory is given back first: the adapter must not raise the peak that `compile` announced.
    let Trainer { executor, step, .. } = trainer;
    let site = executor.site();
    // What a device has taken is not known to the process.
    let resident = report::peak_resident().filter(|_| executor.device().is_none());
    let plan = executor.into_plan();
    let adapter = save_adapter(&plan, &values, step, &model, &args.output_dir)?;
    let planned = report::Memory::of(&plan, site).total;
    Summary::new(planned, resident, &plan, &values, &adapter).write(&args.output_dir)?;
    drop((plan, adapter, values));
    eprintln!("wrote {}", adapter_path(&args.output_dir).display());
    if let Some(page) = super::page::write(&args.output_dir)?.last() {
        eprintln!("wrote {}", page.display());
    }
    ended.map(|_| ())
}

/// Seconds since 1970.
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
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

/// That the disk has room for what the run will write.
fn check_room(trainer: &Trainer, saving: Saving, data: &Data, flags: &Flags, out: &Path) -> Result<(), Failure> {
    let watched = flags.watched();
    let (pictures, size) = match data {
        Data::Cache(batches) => {
            ((watched.prompts.len() as u64).saturating_mul(watched.images), batches.cache().sizes()[0])
        }
        Data::File { .. } => (0, [0, 0]),
    };
    let run = space::Run {
        entries: trainer.executor.plan().sparse.iter().map(|s| s.index.len() as u64).sum(),
        average: trainer.ema.is_some(),
        steps: trainer.options.max_train_steps.saturating_sub(trainer.step),
        saving,
        there: checkpoint::all(out)?.len() as u64,
        pictures,
        every: watched.every,
        size,
    };
    Ok(crate::pipeline::space::check(out, run.bytes())?)
}

/// When checkpoints are saved, and how many are kept.
#[derive(Clone, Copy)]
pub(super) struct Saving {
    /// Steps between; 0 for none but the last.
    pub(super) every: u64,
    /// How many.
    pub(super) keep: usize,
}

/// Trains to the end of the options' steps, with a bar on stderr, a log in the run folder and checkpoints; calls `after` after each
/// step. An interrupt ends it after the step, with a checkpoint.
pub(super) fn train(
    trainer: &mut Trainer,
    batch: impl Fn(u64) -> Result<Tensors, Failure>,
    run: &Path,
    saving: Saving,
    mut after: impl FnMut(&mut Trainer, &mut Metrics) -> Result<(), Failure>,
) -> Result<Vec<Metrics>, Failure> {
    let signals = Signals::watch();
    let total = trainer.options.max_train_steps;
    let mut log = Log::open(&run.join("metrics.jsonl"), trainer.step)?;
    let bar = ProgressBar::new(total).with_style(style());
    bar.set_position(trainer.step);
    let (mut all, mut held_out) = (Vec::new(), None);
    let accumulation = trainer.options.gradient_accumulation_steps;
    let mut made: Vec<Result<Tensors, Failure>> = Vec::new();
    while trainer.step < total {
        let ready = std::mem::take(&mut made);
        let first = trainer.step * accumulation;
        let missing = (first + ready.len() as u64..first + accumulation).map(&batch);
        let batches = ready.into_iter().chain(missing).collect::<Result<Vec<Tensors>, _>>()?;
        let make_next = || {
            let next = first + accumulation + made.len() as u64;
            made.extend((next / accumulation < total).then(|| batch(next)));
        };
        let mut metrics = match trainer.step_while(&batches, make_next) {
            Ok(metrics) => metrics,
            Err(error) => {
                bar.abandon();
                return Err(error.into());
            }
        };
        bar.set_position(metrics.step);
        after(trainer, &mut metrics)?;
        log.write(&metrics)?;
        held_out = metrics.validation_loss.or(held_out);
        let measured = held_out.map_or(String::new(), |loss| format!("  val {loss:.5}"));
        bar.set_message(format!("loss {:.5}{measured}  lr {:.2e}", metrics.loss, metrics.learning_rate));
        all.push(metrics);
        let interrupted = signals.received();
        let due = saving.every > 0 && trainer.step.is_multiple_of(saving.every);
        if interrupted.is_some() || due || trainer.step == total {
            trainer.executor.settle()?;
            let path = match checkpoint::save(trainer, run, saving.keep) {
                Ok(path) => path,
                // A checkpoint that cannot be saved on the way is tried again at the next, and those that are there stand.
                Err(error) if interrupted.is_none() && trainer.step < total => {
                    bar.suspend(|| eprintln!("warning: no checkpoint after step {}: {error}", trainer.step));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(code) = interrupted.filter(|_| trainer.step < total) {
                bar.abandon();
                let (step, path, run) = (trainer.step, path.display(), run.display());
                let message = format!(
                    "interrupted after step {step}; saved {path}; go on with the same command and --resume-from-checkpoint latest (run {run})"
                );
                return Err(Failure::Interrupted { message, code });
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

/// The newest checkpoint of a run that is whole. Those that are damaged are told.
fn newest(run: &Path) -> Result<PathBuf, Failure> {
    let all = checkpoint::all(run)?;
    for (_, folder) in &all {
        match checkpoint::check(folder) {
            Ok(()) => return Ok(folder.clone()),
            Err(error) => eprintln!("warning: {error}; the checkpoint before it is used"),
        }
    }
    let found = if all.is_empty() { "no checkpoint" } else { "no checkpoint that is whole" };
    Err(Failure::Plain(format!("{}: holds {found} to resume from", run.display())))
}

fn resume(trainer: &mut Trainer, from: &Path, run: &Path) -> Result<(), Failure> {
    let folder = if from == Path::new("latest") { newest(run)? } else { from.to_owned() };
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

fn style() -> ProgressStyle {
    let template = "{bar:32} {pos}/{len}  {msg}  {per_sec}  {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
