//! `sara gradients`: dense gradients of weights, for comparison with other tools.

use super::Failure;
use super::options::{Dims, Dump, ModelArg, On, Select, Threads, observe, spare};
use super::run::{execute, finite, for_model};
use sara_compiler::compile::compile_gradients;
use sara_compiler::loss::TARGET;
use sara_runtime::executor::Executor;
use sara_runtime::tensor::{read_safetensors, write_safetensors};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Inputs and `target`: safetensors, one tensor for each of the model's inputs.
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Where the gradients go, as safetensors: one tensor for each selected weight under its ONNX name and shape.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    dims: Dims,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    on: On,
    #[command(flatten)]
    dump: Dump,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let model = args.model.open()?;
    spare(&args.output, &model, &[&args.inputs])?;
    let (inputs, _) = read_safetensors(&args.inputs)?;
    if !inputs.contains_key(TARGET) {
        return Err(Failure::Plain(format!(
            "{}: tensor `{TARGET}` is missing; gradients are of mean((output - {TARGET})^2)",
            args.inputs.display()
        )));
    }
    let inputs = for_model(&model, inputs, &[TARGET]);
    let binding = args.dims.binding_for(&inputs, &[TARGET]);
    let mut observer = args.dump.observer();
    let plan = compile_gradients(&model, &binding, &args.select.options(), observe(&mut observer))?;
    let mut outputs =
        execute(Executor::on(plan, args.threads.count(), Some(model.path()), args.on.open()?)?, "gradients", &inputs)?;
    let loss = outputs.remove("loss").map_or(f64::NAN, |l| l.to_f64()[0]);
    if !loss.is_finite() {
        let bad = inputs.iter().find(|(_, tensor)| !finite(tensor));
        let file = args.inputs.display();
        return Err(Failure::Plain(match bad {
            Some((name, _)) => format!("{file}: tensor `{name}` holds NaN or infinity, so there are no gradients"),
            None => format!("the loss is {loss}, so there are no gradients; check {file} and the model"),
        }));
    }
    write_safetensors(&args.output, &outputs, None)?;
    say!("loss {loss:.9}, {} gradients", outputs.len());
    Ok(())
}
