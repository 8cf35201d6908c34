//! One model of a pipeline.

use super::Error;
use sara_compiler::compile::{canonical, compile_forward, unobserved};
use sara_compiler::import::{Binding, Input, Model};
use sara_compiler::select::{self, Amount};
use sara_kernels::DType;
use sara_runtime::adapter::Adapter;
use sara_runtime::executor::Executor;
use sara_runtime::tensor::{Tensor, Tensors};
use std::collections::BTreeMap;
use std::path::Path;

type Shapes = BTreeMap<String, Vec<usize>>;

/// A model that is compiled for the shapes it is given, and again when they change.
pub struct Network {
    model: Model,
    inputs: Vec<Input>,
    adapter: Option<Adapter>,
    /// Share of each matrix, its smallest entries, that is set to zero.
    zeroed: Option<f64>,
    compiled: Option<(Shapes, Executor)>,
    threads: usize,
}

impl Network {
    /// Opens a model file.
    pub fn open(path: &Path, threads: usize) -> Result<Network, Error> {
        let model = Model::open(path)?;
        Ok(Network { inputs: model.inputs(), model, adapter: None, zeroed: None, compiled: None, threads })
    }

    /// The same model with an adapter's differences added to its weights. The file stays as it is.
    #[must_use]
    pub fn with_adapter(mut self, adapter: Adapter) -> Network {
        self.adapter = Some(adapter);
        self.compiled = None;
        self
    }

    /// The same model with this share of each matrix, its smallest entries, set to zero (method of the paper, section 3.1).
    #[must_use]
    pub fn with_zeroed(mut self, share: f64) -> Network {
        self.zeroed = Some(share).filter(|share| *share > 0.0);
        self.compiled = None;
        self
    }

    /// What a run must be given.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// All outputs for these inputs, in the model's order. Inputs that the model does not have are left out; numbers become whole where the model
    /// takes whole numbers.
    pub fn run(&mut self, given: &Tensors) -> Result<Vec<(String, Tensor)>, Error> {
        let mut inputs = Tensors::new();
        for input in &self.inputs {
            let tensor = given.get(&input.name).ok_or_else(|| {
                Error::Misfit(format!(
                    "{}: input `{}` is not one that this pipeline gives",
                    self.model.path().display(),
                    input.name
                ))
            })?;
            inputs.insert(input.name.clone(), converted(tensor, input.dtype));
        }
        let shapes: Shapes = inputs.iter().map(|(name, t)| (name.clone(), t.shape().to_vec())).collect();
        let executor = match &mut self.compiled {
            Some((own, executor)) if *own == shapes => executor,
            slot => {
                // The memory of the one before is given back first.
                *slot = None;
                let executor = compile(&self.model, &shapes, (self.adapter.as_ref(), self.zeroed), self.threads)?;
                &mut slot.insert((shapes, executor)).1
            }
        };
        for (name, tensor) in &inputs {
            executor.set_input("forward", name, tensor)?;
        }
        executor.run("forward")?;
        outputs(executor, "forward")
    }
}

/// All outputs of a program that ran last.
pub(super) fn outputs(executor: &Executor, program: &str) -> Result<Vec<(String, Tensor)>, Error> {
    let ports = executor.plan().program(program).map_or(&[][..], |p| &p.outputs);
    ports.iter().map(|port| Ok((port.name.clone(), executor.output(program, &port.name)?))).collect()
}

/// Numbers of the kind that a model takes.
pub(super) fn converted(tensor: &Tensor, dtype: Option<DType>) -> Tensor {
    match (dtype, tensor) {
        (Some(DType::I64 | DType::I32), Tensor::F32(a)) => Tensor::I64(a.mapv(|v| v as i64)),
        _ => tensor.clone(),
    }
}

fn compile(
    model: &Model,
    shapes: &Shapes,
    (adapter, zeroed): (Option<&Adapter>, Option<f64>),
    threads: usize,
) -> Result<Executor, Error> {
    let binding = Binding { shapes: shapes.clone(), ..Binding::default() };
    let plan = compile_forward(model, &binding, &mut unobserved())?;
    let mut tuned = match adapter {
        Some(adapter) => adapter.apply(&model.source, &plan.weights)?,
        None => Vec::new(),
    };
    if let Some(share) = zeroed {
        let graph = canonical(model, &binding, &mut unobserved())?;
        let chosen = select::choose(model, &graph, &select::Options::default(), Amount::Density(share), threads)?;
        tuned.extend(chosen.index.into_iter().map(|(weight, index)| (weight, index.clone(), vec![0.0; index.len()])));
    }
    let mut executor = Executor::new(plan, threads, Some(model.path()))?;
    for (weight, index, values) in tuned {
        executor.patch(weight as u32, &index, &values)?;
    }
    Ok(executor)
}
