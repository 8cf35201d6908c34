//! `sara compile`: a model becomes a training plan.

use super::options::{Dims, Dump, HowMany, Memory, ModelArg, On, Select, Size, Threads, observe, parse_size, spare};
use super::{Failure, report};
use crate::pipeline::cache::Cache;
use crate::pipeline::{Pipeline, shapes};
use clap::ValueEnum;
use sara_compiler::compile::{TrainOptions, compile_training};
use sara_compiler::import::{Binding, Model};
use sara_compiler::loss::{Distance, Loss};
use sara_runtime::executor::{Site, check_device};
use sara_runtime::schedule::auto_learning_rate;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Where the plan goes.
    #[arg(long, short, value_name = "PLAN")]
    output: PathBuf,
    #[command(flatten)]
    dims: Dims,
    #[command(flatten)]
    pictures: Pictures,
    #[command(flatten)]
    loss: LossArgs,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    amount: HowMany,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    on: On,
    #[command(flatten)]
    dump: Dump,
    /// Print the plan's programs as text.
    #[arg(long)]
    print_plan: bool,
    /// Report as JSON.
    #[arg(long, conflicts_with_all = ["print_plan", "dump_after"])]
    json: bool,
}

/// Shapes of a pipeline.
#[derive(clap::Args)]
struct Pictures {
    /// For a pipeline: size of its pictures in pixels, 512 or WIDTHxHEIGHT; several separated by commas share one plan. Default: what
    /// the model was made for.
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = parse_size)]
    resolution: Vec<Size>,
    /// For a pipeline: the sizes that a cache holds.
    #[arg(long, value_name = "CACHE", conflicts_with = "resolution")]
    cache: Option<PathBuf>,
    /// For a pipeline: pictures of a batch.
    #[arg(long, default_value_t = 1, value_name = "N")]
    train_batch_size: usize,
}

/// What is made small.
#[derive(clap::Args)]
struct LossArgs {
    /// How the difference of prediction and target counts.
    #[arg(long, value_enum, default_value_t = LossType::L2)]
    loss_type: LossType,
    /// Where huber and smooth_l1 change from a parabola to a line.
    #[arg(long, default_value_t = 0.1, value_name = "C")]
    huber_c: f64,
}

/// How a difference counts.
#[derive(ValueEnum, Clone, Copy)]
enum LossType {
    L2,
    Huber,
    #[value(name = "smooth_l1", alias = "smooth-l1")]
    SmoothL1,
}

impl LossArgs {
    fn distance(&self) -> Result<Distance, Failure> {
        let c = self.huber_c;
        if !(c.is_finite() && c > 0.0) {
            return Err(Failure::Usage(format!("--huber-c must be a number above 0, not {c}")));
        }
        Ok(match self.loss_type {
            LossType::L2 => Distance::L2,
            LossType::Huber => Distance::Huber { c },
            LossType::SmoothL1 => Distance::SmoothL1 { c },
        })
    }
}

#[derive(Serialize)]
struct Report {
    plan: PathBuf,
    trainable: u64,
    eligible: u64,
    parameters: u64,
    threshold: f64,
    auto_learning_rate: f64,
    seconds: f64,
    memory: report::Memory,
}

impl Pictures {
    /// Shapes for the first size, and those for the others with their names.
    fn bindings(&self, pipeline: &mut Pipeline, model: &Model) -> Result<(Binding, Vec<(String, Binding)>), Failure> {
        let sizes = match &self.cache {
            Some(cache) => Cache::open(cache)?.sizes(),
            None if self.resolution.is_empty() => vec![pipeline.own_size()?],
            None => self.resolution.clone(),
        };
        if self.train_batch_size == 0 {
            return Err(Failure::Usage("--train-batch-size must be at least 1".into()));
        }
        let mut bindings = pipeline.bindings(model, &sizes, self.train_batch_size)?.into_iter();
        let first = bindings.next().unwrap_or_default();
        Ok((first, sizes.iter().skip(1).map(|size| shapes::name(*size)).zip(bindings).collect()))
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let mut pipeline = match sara_models::pipeline::Pipeline::is_pipeline(&args.model.model) {
        true => Some(Pipeline::open(&args.model.model, args.threads.count())?),
        false => None,
    };
    let model = args.model.open()?;
    spare(&args.output, &model, &[])?;
    let (binding, buckets) = match &mut pipeline {
        Some(pipeline) => args.pictures.bindings(pipeline, &model)?,
        None => (args.dims.binding(), Vec::new()),
    };
    // The channels of a pipeline's latents are what its target has; a model alone is compared with its whole output.
    let channels =
        pipeline.as_ref().map(Pipeline::latent_channels).filter(|_| pipeline.as_ref().is_some_and(|p| !p.is_packed()));
    let loss = Loss { distance: args.loss.distance()?, weighted: pipeline.is_some(), channels };
    let device = args.on.open()?;
    let options = TrainOptions::new(binding, args.select.options(), args.amount.amount()?);
    let options = TrainOptions { loss, buckets, ..options };
    let options = args.memory.apply(options, device.as_deref(), args.threads.count())?;
    drop(device);
    let mut observer = args.dump.observer();
    let plan = compile_training(&model, &options, observe(&mut observer))?;
    if let Site::Device(precision) = options.site {
        check_device(&plan, precision)?;
    }
    plan.save(&args.output)?;
    if args.print_plan {
        say!("{plan}");
    }
    let memory = report::Memory::of(&plan, options.site);
    let report = Report {
        plan: args.output.clone(),
        trainable: plan.selection.trainable,
        eligible: plan.selection.eligible,
        parameters: plan.selection.total,
        threshold: plan.selection.threshold,
        auto_learning_rate: auto_learning_rate(plan.selection.threshold),
        seconds: start.elapsed().as_secs_f64(),
        memory,
    };
    if args.json {
        return report::json(&report);
    }
    say!("{}", report::selection(&plan));
    say!("learning rate by the paper's rule: {:.3e}", report.auto_learning_rate);
    report.memory.print();
    say!("wrote {} in {:.1} s", args.output.display(), report.seconds);
    Ok(())
}
