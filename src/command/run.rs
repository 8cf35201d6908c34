//! `sara run`: a model forward.

use super::Failure;
use super::options::{Dims, Dump, ModelArg, On, Threads, observe, spare};
use sara_compiler::compile::compile_forward;
use sara_compiler::import::Model;
use sara_runtime::executor::Executor;
use sara_runtime::tensor::{Tensor, Tensors, read_safetensors, write_safetensors};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Inputs: safetensors, one tensor for each of the model's inputs.
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Where the outputs go, as safetensors.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    dims: Dims,
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
    let inputs = for_model(&model, inputs, &[]);
    let mut observer = args.dump.observer();
    let plan = compile_forward(&model, &args.dims.binding_for(&inputs, &[]), observe(&mut observer))?;
    let outputs =
        execute(Executor::on(plan, args.threads.count(), Some(model.path()), args.on.open()?)?, "forward", &inputs)?;
    write_safetensors(&args.output, &outputs, None)?;
    for (name, tensor) in &outputs {
        if !finite(tensor) {
            eprintln!("warning: output `{name}` holds NaN or infinity; check the inputs and the model");
        }
        say!("{name} {}{:?}", tensor.dtype(), tensor.shape());
    }
    Ok(())
}

/// Whether all elements are finite.
pub(super) fn finite(tensor: &Tensor) -> bool {
    tensor.to_f64().iter().all(|v| v.is_finite())
}

/// The tensors that are inputs of the model, or in `also`. Files with inputs often hold more, such as expected results; a file
/// that lacks an input is refused when the program runs.
pub(super) fn for_model(model: &Model, tensors: Tensors, also: &[&str]) -> Tensors {
    let known = |name: &str| also.contains(&name) || model.graph().input.iter().any(|i| i.name == name);
    tensors.into_iter().filter(|(name, _)| known(name)).collect()
}

/// Runs one program on inputs and returns its outputs.
pub(super) fn execute(mut executor: Executor, program: &str, inputs: &Tensors) -> Result<Tensors, Failure> {
    let ports: Vec<(Vec<String>, Vec<String>)> = executor
        .plan()
        .programs
        .iter()
        .filter(|p| p.name == program)
        .map(|p| {
            (p.inputs.iter().map(|i| i.name.clone()).collect(), p.outputs.iter().map(|o| o.name.clone()).collect())
        })
        .collect();
    let Some((wanted, given)) = ports.into_iter().next() else { return Ok(Tensors::new()) };
    for name in &wanted {
        let tensor = inputs.get(name).ok_or_else(|| {
            Failure::Plain(format!("input `{name}` is missing; the model needs {}", wanted.join(", ")))
        })?;
        executor.set_input(program, name, tensor)?;
    }
    executor.run(program)?;
    let mut outputs = Tensors::new();
    for name in given {
        let tensor = executor.output(program, &name)?;
        outputs.insert(name, tensor);
    }
    Ok(outputs)
}
