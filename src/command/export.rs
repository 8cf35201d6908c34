//! `sara export`: the tuned model of a run.

use super::Failure;
use super::options::spare;
use super::train::{RunFile, adapter_path};
use crate::pipeline::{copy, pytorch};
use sara_compiler::import::{Model, external_files, read_weight, weights};
use sara_runtime::adapter::Adapter;
use sara_runtime::checkpoint;
use sara_runtime::patch::{Patch, export};
use sara_runtime::source::Source;
use sara_runtime::tensor::{Tensor, Tensors, write_safetensors};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the run.
    run: PathBuf,
    /// Where the tuned ONNX model goes, an .onnx file with its external data beside it; or a folder, for the whole pipeline that the
    /// model is part of.
    #[arg(long, short, value_name = "MODEL")]
    output: Option<PathBuf>,
    /// Also write every tuned weight, whole, as safetensors under its ONNX name.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Also write the sparse adapter.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Also write the differences under the names and in the layout of PyTorch's parameters: safetensors with NAME.index, flat
    /// positions, and NAME.delta.
    #[arg(long, value_name = "FILE")]
    pytorch: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if [&args.output, &args.weights, &args.adapter, &args.pytorch].iter().all(|path| path.is_none()) {
        return Err(Failure::Usage("give at least one of --output, --weights, --adapter, --pytorch".into()));
    }
    let run = RunFile::read(&args.run)?;
    let adapter = finished(&args.run)?;
    let model = Model::open_source(Source { model: run.model, root: run.external_data_root })?;
    let own = adapter_path(&args.run);
    for path in args.weights.iter().chain(&args.adapter).chain(&args.pytorch) {
        spare(path, &model, &[&own])?;
    }
    if let Some(output) = &args.output {
        write_tuned(&model, &adapter, output)?;
    }
    if let Some(path) = &args.weights {
        write_weights(&model, &adapter, path)?;
        say!("wrote {}", path.display());
    }
    if let Some(path) = &args.pytorch {
        let found = pytorch::named(&adapter, &weights(&model)?);
        if !found.unknown.is_empty() {
            eprintln!("warning: left out, because their parameters cannot be told: {}", found.unknown.join(", "));
        }
        write_safetensors(path, &found.tensors, None)?;
        say!("wrote {}", path.display());
    }
    if let Some(path) = &args.adapter {
        adapter.write(path)?;
        say!("wrote {}", path.display());
    }
    Ok(())
}

/// The adapter of a run that ended, by itself or by an interrupt. One that was killed has checkpoints that its adapter lacks.
fn finished(run: &Path) -> Result<Adapter, Failure> {
    let path = adapter_path(run);
    let resume = |what: &str| {
        let run = run.display();
        Failure::Plain(format!("{run}: {what}; finish it with `sara train --resume-from-checkpoint latest`"))
    };
    if !path.exists() {
        return Err(resume("the run has not ended and left no adapter"));
    }
    let adapter = Adapter::read(&path)?;
    let step: Option<u64> = adapter.metadata.get("step").and_then(|step| step.parse().ok());
    match checkpoint::latest(run)? {
        Some((newest, _)) if step.is_some_and(|step| step < newest) => {
            Err(resume(&format!("the run was killed after step {newest}, and its adapter is older")))
        }
        _ => Ok(adapter),
    }
}

/// Writes the model with an adapter applied; where the output is no `.onnx` file, the whole pipeline whose denoiser the model is.
pub(super) fn write_tuned(model: &Model, adapter: &Adapter, output: &Path) -> Result<(), Failure> {
    let root = copy::of_denoiser(model.path()).filter(|_| output.extension().is_none_or(|e| e != "onnx"));
    let Some(root) = root else { return write_model(model, adapter, output) };
    let external = external_files(model)?.into_iter().map(|file| model.source.path(&file));
    let own: Vec<PathBuf> = external.chain([model.path().to_owned()]).collect();
    let mut told = (0, 0);
    copy::with_denoiser(&root, model.path(), &own, output, |path| {
        apply(model, adapter, path).map(|tuned| told = tuned)
    })?;
    tell(output, told);
    Ok(())
}

/// Writes the model with an adapter applied.
pub(super) fn write_model(model: &Model, adapter: &Adapter, output: &Path) -> Result<(), Failure> {
    tell(output, apply(model, adapter, output)?);
    Ok(())
}

fn tell(output: &Path, (values, weights): (usize, usize)) {
    let values = super::report::grouped(values as u64);
    say!("wrote {} ({values} values in {weights} weights tuned)", output.display());
}

/// The same, and returns how many values of how many weights it changed.
fn apply(model: &Model, adapter: &Adapter, output: &Path) -> Result<(usize, usize), Failure> {
    let table = weights(model)?;
    let values = adapter.apply(&model.source, &table)?;
    let patches: Vec<Patch<'_>> =
        values.iter().map(|(w, index, values)| Patch { weight: &table[*w], index, values }).collect();
    export(&model.source, &external_files(model)?, &patches, output)?;
    Ok((patches.iter().map(|p| p.index.len()).sum(), patches.len()))
}

fn write_weights(model: &Model, adapter: &Adapter, path: &Path) -> Result<(), Failure> {
    let table = weights(model)?;
    let mut tensors = Tensors::new();
    for (w, index, values) in adapter.apply(&model.source, &table)? {
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
