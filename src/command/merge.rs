//! `sara merge`: applies adapters to a model.

use super::Failure;
use super::export::write_tuned;
use super::options::{ModelArg, parse_scaled, spare};
use sara_runtime::adapter::Adapter;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// An adapter, with a scale after a colon if it is not 1; repeat for more.
    #[arg(long, required = true, value_name = "FILE[:SCALE]", value_parser = parse_scaled)]
    adapter: Vec<(PathBuf, f32)>,
    /// Where the merged model goes, an .onnx file with its external data beside it; or a folder, for the whole pipeline.
    #[arg(long, short, value_name = "MODEL")]
    output: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let model = args.model.open()?;
    let adapters: Vec<&Path> = args.adapter.iter().map(|a| a.0.as_path()).collect();
    spare(&args.output, &model, &adapters)?;
    let mut parts = Vec::new();
    for (path, scale) in &args.adapter {
        parts.push((Adapter::read(path)?, *scale));
    }
    write_tuned(&model, &Adapter::combine(&parts)?, &args.output)
}
