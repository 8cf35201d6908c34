//! `sara verify`: a model against ONNX Runtime, as a whole, node by node, and its gradient.

mod gradient;
mod nodes;
mod values;

use super::options::{Dims, ModelArg, On, Select, Threads};
use super::run::{execute, for_model};
use super::{Failure, report};
use sara_compiler::compile::{compile_forward, unobserved};
use sara_compiler::import::checked;
use sara_runtime::executor::Executor;
use sara_runtime::oracle::{Oracle, SessionOptions};
use sara_runtime::tensor::read_safetensors;
use serde::Serialize;
use std::path::PathBuf;
use values::Values;
pub(super) use values::difference;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Inputs: safetensors, one tensor for each of the model's inputs. Random ones by default.
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Compare also the gradient of mean((first output - target)^2) with differences that ONNX Runtime computes on patched weights.
    #[arg(long)]
    grad: bool,
    /// Directions along which the gradient is compared; each takes another part of the weights.
    #[arg(long, default_value_t = 4, value_name = "N")]
    directions: usize,
    /// Do not compare node by node.
    #[arg(long)]
    no_nodes: bool,
    /// Largest difference that is allowed, relative to the largest element of what is compared.
    #[arg(long, default_value_t = 2e-4, value_name = "T")]
    tolerance: f64,
    #[command(flatten)]
    dims: Dims,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    on: On,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// What was compared and how it went.
#[derive(Serialize)]
struct Report {
    onnxruntime: String,
    outputs: Vec<Output>,
    nodes: Option<nodes::Report>,
    gradient: Option<gradient::Report>,
    verified: bool,
}

/// An output of the whole graph.
#[derive(Serialize)]
struct Output {
    name: String,
    /// Largest difference, relative to the largest element.
    difference: f64,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let oracle = Oracle::open()?;
    let model = args.model.open()?;
    let given = match &args.inputs {
        Some(path) => for_model(&model, read_safetensors(path)?.0, &[]),
        None => Default::default(),
    };
    let binding = args.dims.binding_for(&given, &[]);
    let plan = compile_forward(&model, &binding, &mut unobserved())?;
    let (bytes, folder) = checked(&model)?;
    let mut session = oracle.session_from_bytes(&bytes, &folder, &SessionOptions::default())?;
    let values = Values::new(&plan, &session, &given)?;
    let found = execute(
        Executor::on(plan, args.threads.count(), Some(model.path()), args.on.open()?)?,
        "forward",
        &values.tensors,
    )?;
    let mut outputs = Vec::new();
    for (name, expected) in session.run(&values.arrays)? {
        let expected = expected.to_tensor().zip(found.get(&name));
        let difference = expected.map_or(f64::INFINITY, |(expected, found)| difference(&expected, found));
        outputs.push(Output { name, difference });
    }
    drop(session);
    let nodes = match args.no_nodes {
        true => None,
        false => Some(nodes::verify(&oracle, &model, &values, args.on.open()?, args.tolerance)?),
    };
    let gradient = match args.grad {
        false => None,
        true => Some(gradient::verify(
            &oracle,
            &model,
            &values,
            gradient::Options {
                binding,
                select: args.select.options(),
                threads: args.threads.count(),
                device: args.on.open()?,
                directions: args.directions.max(1),
            },
        )?),
    };
    let verified = outputs.iter().all(|o| o.difference <= args.tolerance)
        && nodes.as_ref().is_none_or(|n| n.failed.is_empty())
        && gradient.as_ref().is_none_or(gradient::Report::holds);
    let report = Report { onnxruntime: oracle.version().to_owned(), outputs, nodes, gradient, verified };
    if args.json {
        report::json(&report)?;
    } else {
        report.print(args.tolerance);
    }
    if verified {
        Ok(())
    } else {
        Err(Failure::Verification(format!(
            "{}: differs from ONNX Runtime by more than allowed",
            args.model.model.display()
        )))
    }
}

impl Report {
    fn print(&self, tolerance: f64) {
        say!("against ONNX Runtime {}, allowed {tolerance:.0e} of the largest element", self.onnxruntime);
        for output in &self.outputs {
            say!("  output {}: {:.1e}", output.name, output.difference);
        }
        if let Some(nodes) = &self.nodes {
            nodes.print();
        }
        if let Some(gradient) = &self.gradient {
            gradient.print();
        }
        if self.verified {
            say!("verified");
        }
    }
}
