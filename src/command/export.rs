//! `sara export`: the tuned model of a run.

use super::Failure;
use super::train::{RunFile, adapter_path};
use sara_compiler::import::{Model, external_files, read_weight, weights};
use sara_runtime::adapter::Adapter;
use sara_runtime::patch::{Patch, export};
use sara_runtime::tensor::{Tensor, Tensors, write_safetensors};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the run.
    run: PathBuf,
    /// Where the tuned ONNX model goes; its external data goes beside it.
    #[arg(long, short, value_name = "MODEL")]
    output: Option<PathBuf>,
    /// Also write every tuned weight, whole, as safetensors under its ONNX name.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Also write the sparse adapter.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.output.is_none() && args.weights.is_none() && args.adapter.is_none() {
        return Err(Failure::Usage("give at least one of --output, --weights, --adapter".into()));
    }
    let run = RunFile::read(&args.run)?;
    let adapter = Adapter::read(&adapter_path(&args.run))?;
    let model = Model::open(&run.model)?;
    if let Some(output) = &args.output {
        write_model(&model, &adapter, output)?;
    }
    if let Some(path) = &args.weights {
        write_weights(&model, &adapter, path)?;
        println!("wrote {}", path.display());
    }
    if let Some(path) = &args.adapter {
        adapter.write(path)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Writes the model with an adapter applied.
pub(super) fn write_model(model: &Model, adapter: &Adapter, output: &Path) -> Result<(), Failure> {
    let table = weights(model)?;
    let values = adapter.apply(&model.path, &table)?;
    let patches: Vec<Patch<'_>> =
        values.iter().map(|(w, index, values)| Patch { weight: &table[*w], index, values }).collect();
    export(&model.path, &external_files(model)?, &patches, output)?;
    let tuned: usize = patches.iter().map(|p| p.index.len()).sum();
    println!(
        "wrote {} ({} values in {} weights tuned)",
        output.display(),
        super::report::grouped(tuned as u64),
        patches.len()
    );
    Ok(())
}

fn write_weights(model: &Model, adapter: &Adapter, path: &Path) -> Result<(), Failure> {
    let table = weights(model)?;
    let mut tensors = Tensors::new();
    for (w, index, values) in adapter.apply(&model.path, &table)? {
        let weight = &table[w];
        let mut all: Vec<f32> =
            read_weight(model, weight)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for (i, v) in index.iter().zip(values) {
            all[*i as usize] = v;
        }
        let shape: Vec<usize> = weight.shape.iter().map(|d| *d as usize).collect();
        tensors.extend(Tensor::f32(&shape, all).map(|t| (weight.name.clone(), t)));
    }
    write_safetensors(path, &tensors, None)?;
    Ok(())
}
