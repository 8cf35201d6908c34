//! The gradient against ONNX Runtime: along a direction `d` in the space of the weights, the derivative of the loss is `<gradient, d>`,
//! and ONNX Runtime gives it as `(loss(w + e d) - loss(w - e d)) / 2e`, computed on copies of the model with patched weights.

use super::values::Values;
use crate::command::Failure;
use crate::command::run::execute;
use sara_compiler::compile::{compile_gradients, unobserved};
use sara_compiler::import::{Binding, Model, checked, external_files, read_weight};
use sara_compiler::loss::TARGET;
use sara_compiler::select;
use sara_runtime::device::Device;
use sara_runtime::executor::Executor;
use sara_runtime::oracle::{Oracle, SessionOptions};
use sara_runtime::patch::{Patch, export};
use sara_runtime::plan::{Stored, Weight};
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::{Tensor, Tensors};
use serde::Serialize;

/// Changes of the loss, relative to it, that steps along a direction aim at. Large steps bend, small ones drown in rounding.
const CHANGES: [f64; 4] = [0.1, 0.03, 0.01, 0.003];
/// Largest relative difference of the two derivatives.
const ALLOWED: f64 = 1e-2;
/// How far weights without a gradient are moved, relative to their norm.
const STILL_STEP: f64 = 0.05;
/// Largest change of the loss by that, relative to it.
const STILL: f64 = 1e-6;

/// What to compare.
pub(super) struct Options {
    /// Shapes.
    pub(super) binding: Binding,
    /// Weights to differentiate by.
    pub(super) select: select::Options,
    /// Threads.
    pub(super) threads: usize,
    /// Device, if not the CPU.
    pub(super) device: Option<Box<dyn Device>>,
    /// Parts into which the weights are dealt; each gives a direction.
    pub(super) directions: usize,
}

/// How the derivatives compare.
#[derive(Serialize)]
pub(super) struct Report {
    weights: usize,
    directions: Vec<Direction>,
}

/// One direction.
#[derive(Serialize)]
struct Direction {
    weights: usize,
    /// By our gradient.
    derivative: f64,
    /// By ONNX Runtime's differences.
    differences: f64,
    relative: f64,
    /// What halving the step changes in the differences, relative to them: how much they can tell.
    resolution: f64,
    allowed: f64,
}

impl Report {
    /// Whether all directions agree.
    pub(super) fn holds(&self) -> bool {
        self.directions.iter().all(|d| d.relative <= d.allowed)
    }

    pub(super) fn print(&self) {
        say!("  gradient of {} weights along {} directions:", self.weights, self.directions.len());
        for (i, d) in self.directions.iter().enumerate() {
            if d.allowed == STILL {
                say!(
                    "    {} weights without a gradient: moving them changes the loss by {:.1e} of itself (allowed {STILL:.0e}){}",
                    d.weights,
                    d.relative,
                    if d.relative <= d.allowed { "" } else { " FAILED" }
                );
                continue;
            }
            say!(
                "    {}: {:.6e}, by differences {:.6e}: {:.1e} apart (allowed {:.0e}){}",
                i + 1,
                d.derivative,
                d.differences,
                d.relative,
                d.allowed,
                if d.relative <= d.allowed { "" } else { " FAILED" }
            );
        }
    }
}

/// Compares the gradient along directions.
pub(super) fn verify(oracle: &Oracle, model: &Model, values: &Values, options: Options) -> Result<Report, Failure> {
    let plan = compile_gradients(model, &options.binding, &options.select, &mut unobserved())?;
    let weights = plan.weights.clone();
    let mut inputs = values.tensors.clone();
    let port = plan.programs.iter().flat_map(|p| &p.inputs).find(|i| i.name == TARGET);
    let shape: Vec<usize> = port.map_or(Vec::new(), |p| p.shape.iter().map(|d| *d as usize).collect());
    let mut rng = CounterRng::new(1, 0);
    let target: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
    inputs.extend(Tensor::f32(&shape, target.clone()).map(|t| (TARGET.to_owned(), t)));
    let mut gradients =
        execute(Executor::on(plan, options.threads, Some(model.path()), options.device)?, "gradients", &inputs)?;
    let base = gradients.remove("loss").map_or(f64::NAN, |l| l.to_f64()[0]);
    let probe = Probe { oracle, model, values, target: &target };
    probe.compare(&weights, &gradients, base, options.directions)
}

/// A weight, its gradient, and where it goes.
struct Move<'w> {
    weight: &'w Weight,
    base: Vec<f32>,
    gradient: Vec<f32>,
    direction: Vec<f32>,
    index: Vec<u32>,
}

impl<'w> Move<'w> {
    /// The direction is the gradient with each element scaled at random, so that a gradient that is wrong in any way shows, and as
    /// long as the weight, so that weights with small gradients count. Where the gradient is zero it is any direction.
    fn new(model: &Model, weight: &'w Weight, gradient: Vec<f32>, seed: u64) -> Result<Move<'w>, Failure> {
        let base: Vec<f32> = bytemuck::pod_collect_to_vec(&read_weight(model, weight)?);
        let mut rng = CounterRng::new(seed, weight.offset);
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let mut direction: Vec<f32> = gradient.iter().map(|g| g * (0.5 + rng.uniform() as f32)).collect();
        if norm(&direction) == 0.0 {
            direction.iter_mut().for_each(|d| *d = rng.normal() as f32);
        }
        let scale = (norm(&base).max(f64::from(f32::MIN_POSITIVE)) / norm(&direction)) as f32;
        direction.iter_mut().for_each(|d| *d *= scale);
        let index = (0..gradient.len() as u32).collect();
        Ok(Move { weight, base, gradient, direction, index })
    }

    /// The weight after a step, as its file can hold it.
    fn moved(&self, step: f64) -> Vec<f32> {
        let stepped = self.base.iter().zip(&self.direction);
        stepped.map(|(w, d)| round((f64::from(*w) + step * f64::from(*d)) as f32, self.weight.stored)).collect()
    }
}

fn round(value: f32, stored: Stored) -> f32 {
    match stored {
        Stored::Plain(_) => value,
        Stored::F16 => half::f16::from_f32(value).to_f32(),
        Stored::Bf16 => half::bf16::from_f32(value).to_f32(),
    }
}

/// Asks ONNX Runtime for losses.
struct Probe<'a> {
    oracle: &'a Oracle,
    model: &'a Model,
    values: &'a Values,
    target: &'a [f32],
}

impl Probe<'_> {
    /// Compares gradients of a loss that is `base` along directions.
    fn compare<'w>(
        &self,
        weights: &'w [Weight],
        gradients: &Tensors,
        base: f64,
        directions: usize,
    ) -> Result<Report, Failure> {
        let gradient = |w: &Weight| gradients.get(&w.name).map(Tensor::to_f32);
        let weights: Vec<&Weight> = weights.iter().filter(|w| gradients.contains_key(&w.name)).collect();
        let (still, moving): (Vec<&Weight>, Vec<&Weight>) =
            weights.iter().partition(|w| gradient(w).is_some_and(|g| g.iter().all(|g| *g == 0.0)));
        let mut report = Report { weights: weights.len(), directions: Vec::new() };
        let moves = |weights: &mut dyn Iterator<Item = &&'w Weight>, seed: usize| {
            let moves = weights.map(|w| Move::new(self.model, w, gradient(w).unwrap_or_default(), seed as u64));
            moves.collect::<Result<Vec<_>, _>>()
        };
        for part in 0..directions.min(moving.len()) {
            let moves = moves(&mut moving.iter().skip(part).step_by(directions), part)?;
            report.directions.push(self.direction(&moves, base)?);
        }
        if !still.is_empty() {
            let moves = moves(&mut still.iter(), directions)?;
            report.directions.push(self.still(&moves, base)?);
        }
        Ok(report)
    }

    fn direction(&self, moves: &[Move<'_>], base: f64) -> Result<Direction, Failure> {
        let dot = |m: &Move<'_>, d: &[f32]| -> f64 {
            m.gradient.iter().zip(d).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum()
        };
        let slope: f64 = moves.iter().map(|m| dot(m, &m.direction)).sum();
        let mut best: Option<Direction> = None;
        let mut last: Option<f64> = None;
        for change in CHANGES {
            let step = change * base.abs().max(f64::MIN_POSITIVE) / slope;
            let (derivative, differences) = self.central(moves, step)?;
            let ratio = differences / derivative;
            // Two steps of different length agree where neither bending nor rounding dominates.
            if let Some(last) = last {
                let resolution = (ratio - last).abs();
                if best.as_ref().is_none_or(|b| resolution < b.resolution) {
                    let relative = (ratio - 1.0).abs();
                    let (derivative, differences) = (slope, slope * ratio);
                    let weights = moves.len();
                    best = Some(Direction { weights, derivative, differences, relative, resolution, allowed: ALLOWED });
                }
            }
            last = Some(ratio);
        }
        best.ok_or_else(|| Failure::Plain("no step was tried".into()))
    }

    /// Weights whose gradient is zero may move a little without an effect on the loss, save one that is the same in both directions.
    fn still(&self, moves: &[Move<'_>], base: f64) -> Result<Direction, Failure> {
        let (_, differences) = self.central(moves, STILL_STEP)?;
        let relative = (differences / base.abs().max(f64::MIN_POSITIVE)).abs();
        let weights = moves.len();
        Ok(Direction { weights, derivative: 0.0, differences, relative, resolution: 0.0, allowed: STILL })
    }

    /// `<gradient, w+ - w->` and `loss(w+) - loss(w-)`, with the weights as the files hold them.
    fn central(&self, moves: &[Move<'_>], step: f64) -> Result<(f64, f64), Failure> {
        let (up, down): (Vec<_>, Vec<_>) = moves.iter().map(|m| (m.moved(step), m.moved(-step))).unzip();
        let mut derivative = 0.0;
        for ((m, up), down) in moves.iter().zip(&up).zip(&down) {
            for ((g, up), down) in m.gradient.iter().zip(up).zip(down) {
                derivative += f64::from(*g) * (f64::from(*up) - f64::from(*down));
            }
        }
        Ok((derivative, self.loss(moves, &up)? - self.loss(moves, &down)?))
    }

    fn loss(&self, moves: &[Move<'_>], values: &[Vec<f32>]) -> Result<f64, Failure> {
        let folder = tempfile::tempdir().map_err(|e| Failure::Plain(e.to_string()))?;
        let path = folder.path().join("model.onnx");
        let patches: Vec<Patch<'_>> =
            moves.iter().zip(values).map(|(m, v)| Patch { weight: m.weight, index: &m.index, values: v }).collect();
        export(&self.model.source, &external_files(self.model)?, &patches, &path)?;
        let (bytes, folder) = checked(&Model::open(&path)?)?;
        let mut session = self.oracle.session_from_bytes(&bytes, &folder, &SessionOptions::default())?;
        let results = session.run(&self.values.arrays)?;
        let output = results.first().and_then(|(_, array)| array.to_tensor()).map_or(Vec::new(), |t| t.to_f64());
        if output.len() != self.target.len() {
            return Err(Failure::Plain("the first output has another size in ONNX Runtime".into()));
        }
        let squares = output.iter().zip(self.target).map(|(o, t)| (o - f64::from(*t)).powi(2));
        Ok(squares.sum::<f64>() / output.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sara_runtime::tensor::read_safetensors;
    use std::path::PathBuf;

    /// PyTorch's own gradients hold; wrong ones do not.
    #[test]
    fn wrong_gradients_are_rejected() {
        let oracle = Oracle::open_or_fetch().unwrap_or_else(|e| panic!("ONNX Runtime is needed for this test: {e}"));
        let path = |file: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file);
        let tensors = |file: &str| read_safetensors(&path(file)).unwrap().0;
        let model = Model::open(&path("dit.dynamo.onnx")).unwrap();
        let mut case = tensors("dit.dynamo.case.safetensors");
        let base = case["expected.loss"].to_f64()[0];
        let target = case["target"].to_f32();
        case.retain(|name, _| model.graph().input.iter().any(|i| i.name == *name));
        let shapes = case.iter().map(|(n, t)| (n.clone(), t.shape().to_vec())).collect();
        let binding = Binding { shapes, ..Binding::default() };
        let plan = compile_gradients(&model, &binding, &select::Options::default(), &mut unobserved()).unwrap();
        let session = oracle.session_from_file(model.path(), &SessionOptions::default()).unwrap();
        let values = Values::new(&plan, &session, &case).unwrap();
        let probe = Probe { oracle: &oracle, model: &model, values: &values, target: &target };
        let gradients = tensors("dit.dynamo.grads.safetensors");
        let compare = |gradients: &Tensors| probe.compare(&plan.weights, gradients, base, 4).unwrap();
        let report = compare(&gradients);
        assert!(report.holds() && report.directions.len() == 4, "{:?}", relative(&report));

        let scaled = |tensor: &Tensor, by: f32| {
            Tensor::f32(tensor.shape(), tensor.to_f32().iter().map(|g| g * by).collect()).unwrap()
        };
        for by in [1.05, 0.95, -1.0] {
            let report = compare(&gradients.iter().map(|(n, t)| (n.clone(), scaled(t, by))).collect());
            assert!(report.directions.iter().all(|d| d.relative > ALLOWED), "{by}: {:?}", relative(&report));
        }
        // One weight that is wrong spoils its direction only.
        let norm = |t: &Tensor| t.to_f64().iter().map(|g| g * g).sum::<f64>();
        let weights = plan.weights.iter().filter_map(|w| gradients.get_key_value(&w.name));
        let (largest, gradient) = weights.max_by(|a, b| norm(a.1).total_cmp(&norm(b.1))).unwrap();
        let mut one = gradients.clone();
        one.insert(largest.clone(), scaled(gradient, 1.2));
        let report = compare(&one);
        assert_eq!(report.directions.iter().filter(|d| d.relative > ALLOWED).count(), 1, "{:?}", relative(&report));
        for wrong in [f32::NAN, 0.0] {
            one.insert(largest.clone(), scaled(gradient, wrong));
            assert!(!compare(&one).holds(), "{wrong}");
        }
    }

    fn relative(report: &Report) -> Vec<f64> {
        report.directions.iter().map(|d| d.relative).collect()
    }
}
