//! `sara compile`: a model becomes a training plan.

use super::options::{Dims, Dump, HowMany, Memory, ModelArg, Select, Threads, observe, spare};
use super::{Failure, report};
use sara_compiler::compile::{TrainOptions, compile_training};
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
    select: Select,
    #[command(flatten)]
    amount: HowMany,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    dump: Dump,
    /// Print the plan's programs as text.
    #[arg(long)]
    print_plan: bool,
    /// Report as JSON.
    #[arg(long, conflicts_with_all = ["print_plan", "dump_after"])]
    json: bool,
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

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let model = args.model.open()?;
    spare(&args.output, &model, &[])?;
    let options = TrainOptions {
        memory_limit: args.memory.limit,
        weights: args.memory.weights.into(),
        precision: args.memory.mixed_precision.into(),
        threads: args.threads.count(),
        ..TrainOptions::new(args.dims.binding(), args.select.options(), args.amount.amount()?)
    };
    let mut observer = args.dump.observer();
    let plan = compile_training(&model, &options, observe(&mut observer))?;
    plan.save(&args.output)?;
    if args.print_plan {
        say!("{plan}");
    }
    let memory = report::Memory::of(&plan, args.threads.count());
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
