//! An export beside what PyTorch computed with the same model: `BASE.onnx`, `BASE.case.safetensors` and `BASE.grads.safetensors`.

use sara::compiler::compile::{compile_forward, compile_gradients, unobserved};
use sara::compiler::import::{Binding, Model};
use sara::compiler::loss::TARGET;
use sara::compiler::select::{self, Scope};
use sara::runtime::executor::Executor;
use sara::runtime::tensor::{Tensors, read_safetensors};
use std::path::PathBuf;

/// Largest difference of the output, relative to the largest element of it.
pub(crate) const FORWARD: f64 = 2e-4;
/// Largest difference of a gradient, relative to its norm.
pub(crate) const GRADIENT: f64 = 1e-3;

/// One export.
pub(crate) struct Export {
    /// Path without `.onnx`.
    pub(crate) base: PathBuf,
}

impl Export {
    /// The path of a file of this export.
    pub(crate) fn path(&self, ending: &str) -> PathBuf {
        let name = self.base.file_name().unwrap_or_default().to_string_lossy();
        self.base.with_file_name(format!("{name}.{ending}"))
    }

    /// The tensors of a file of this export.
    pub(crate) fn tensors(&self, ending: &str) -> Result<Tensors, String> {
        read_safetensors(&self.path(ending)).map(|(tensors, _)| tensors).map_err(|e| e.to_string())
    }

    /// The model.
    pub(crate) fn model(&self) -> Result<Model, String> {
        Model::open(&self.path("onnx")).map_err(|e| e.to_string())
    }

    /// Largest difference of the output from PyTorch's, relative to the largest element.
    pub(crate) fn forward(&self) -> Result<f64, String> {
        let case = self.tensors("case.safetensors")?;
        let (inputs, binding) = inputs(&case);
        let plan = compile_forward(&self.model()?, &binding, &mut unobserved()).map_err(|e| e.to_string())?;
        let mut executor = Executor::new(plan, 2, None).map_err(|e| e.to_string())?;
        executor.poison(true);
        run(&mut executor, "forward", &inputs);
        let expected = case.get("expected.out_sample").ok_or("the case has no `expected.out_sample`")?.to_f64();
        let found = executor.output("forward", "out_sample").map_err(|e| e.to_string())?.to_f64();
        if expected.len() != found.len() {
            return Err(format!("{} elements instead of {}", found.len(), expected.len()));
        }
        let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let far = expected.iter().zip(&found).map(|(a, b)| (a - b).abs());
        let worst = far.fold(0.0, larger) / largest;
        if worst < FORWARD {
            Ok(worst)
        } else {
            Err(format!("the output differs by {worst:.1e} of its largest element"))
        }
    }

    /// Number of gradients, and the largest difference of one from PyTorch's, relative to its norm.
    pub(crate) fn gradients(&self) -> Result<(usize, f64), String> {
        let (inputs, binding) = inputs(&self.tensors("case.safetensors")?);
        let options = select::Options { scope: Scope::All, ..select::Options::default() };
        let plan =
            compile_gradients(&self.model()?, &binding, &options, &mut unobserved()).map_err(|e| e.to_string())?;
        let mut executor = Executor::new(plan, 2, None).map_err(|e| e.to_string())?;
        executor.poison(true);
        run(&mut executor, "gradients", &inputs);
        let expected = self.tensors("grads.safetensors")?;
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let all: f64 = expected.values().map(|t| norm(&t.to_f64()).powi(2)).sum::<f64>().sqrt();
        let mut worst: f64 = 0.0;
        for (weight, expected) in &expected {
            let expected = expected.to_f64();
            let found = executor.output("gradients", weight).map_err(|e| e.to_string())?.to_f64();
            let difference: Vec<f64> = expected.iter().zip(&found).map(|(a, b)| a - b).collect();
            // A key's bias has the gradient 0 in exact arithmetic, since softmax ignores shifts; both sides are then rounding
            // noise.
            let noise = 1e-7 * all;
            let far = norm(&difference);
            if far.is_nan() || far > noise {
                worst = larger(worst, far / norm(&expected).max(f64::MIN_POSITIVE));
                if worst.is_nan() || worst >= GRADIENT {
                    return Err(format!("the gradient of {weight} differs by {worst:.1e} of its norm"));
                }
            }
        }
        Ok((expected.len(), worst))
    }
}

/// The larger of two numbers, or NaN if one of them is.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Inputs of a case and the binding to their shapes.
pub(crate) fn inputs(case: &Tensors) -> (Tensors, Binding) {
    let inputs: Tensors =
        case.iter().filter(|(n, _)| !n.starts_with("expected")).map(|(n, t)| (n.clone(), t.clone())).collect();
    let shapes = inputs.iter().filter(|(n, _)| *n != TARGET).map(|(n, t)| (n.clone(), t.shape().to_vec())).collect();
    (inputs, Binding { shapes, ..Binding::default() })
}

/// Runs a program on the inputs that it takes.
pub(crate) fn run(executor: &mut Executor, program: &str, inputs: &Tensors) {
    let ports = &executor.plan().program(program).unwrap_or_else(|| panic!("no program `{program}`")).inputs;
    let names: Vec<String> = ports.iter().map(|p| p.name.clone()).collect();
    for name in names {
        executor.set_input(program, &name, &inputs[&name]).unwrap_or_else(|e| panic!("{e}"));
    }
    executor.run(program).unwrap_or_else(|e| panic!("{e}"));
}
