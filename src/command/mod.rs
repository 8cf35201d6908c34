//! The command line: one file a command, and the table of all.

/// Prints a line of data to stdout. A reader that has seen enough is no failure; it must not end a training either.
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::command::report::line(format_args!($($arg)*))
    };
}

mod bench;
mod cache;
mod compile;
mod demo;
mod doctor;
mod export;
mod failure;
mod gradients;
mod inspect;
mod merge;
mod options;
mod page;
mod report;
mod run;
mod sample;
mod train;
mod verify;

pub use failure::Failure;
pub use train::check_config;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Fine-tune diffusion models in ONNX by SaRA: only the weights of smallest magnitude train.
#[derive(Parser)]
#[command(name = "sara", version, args_override_self = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failure, 2 usage, 3 unsupported model, 4 verification failed, 5 over the memory limit, 130 interrupted with a checkpoint saved.";

#[derive(Subcommand)]
enum Command {
    /// The whole story on a small bundled model: compile, train, export, verify, with pictures.
    Demo(demo::Args),
    /// What a model holds: inputs, operators, weights and how many lie below each threshold, and what cannot train.
    Inspect(inspect::Args),
    /// Compile a model into a training plan and print its memory.
    Compile(compile::Args),
    /// Run a model forward.
    Run(run::Args),
    /// Dense gradients of mean((first output - target)^2) with respect to weights.
    Gradients(gradients::Args),
    /// Compare a model with ONNX Runtime, as a whole and node by node; with --grad also its gradient.
    Verify(verify::Args),
    /// Latents and text embeddings of a folder of pictures, for a pipeline.
    Cache(cache::Args),
    /// Train a plan.
    Train(Box<train::Args>),
    /// Plots and a page of a run; training writes them when it ends.
    Report(page::Args),
    /// What a training step takes, kernel by kernel, on random data.
    Bench(bench::Args),
    /// Write the tuned ONNX model of a run.
    Export(export::Args),
    /// Apply adapters to a model.
    Merge(merge::Args),
    /// Pictures of a pipeline, with or without adapters.
    Sample(sample::Args),
    /// What this machine offers: processor, threads, ONNX Runtime.
    Doctor(doctor::Args),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(hyphenated(std::env::args_os()));
    let result = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Compile(args) => compile::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Gradients(args) => gradients::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Report(args) => page::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Cache(args) => cache::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", report::printable(&failure.to_string()));
            ExitCode::from(failure.code())
        }
    }
}

/// Underscores in flags are taken for hyphens, as users of other trainers write them.
fn hyphenated(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    args.map(|arg| match arg.to_str() {
        Some(text) if text.starts_with("--") => {
            let (flag, value) = text.split_once('=').map_or((text, None), |(f, v)| (f, Some(v)));
            let flag = flag.replace('_', "-");
            value.map_or(flag.clone(), |v| format!("{flag}={v}")).into()
        }
        _ => arg,
    })
    .collect()
}
