//! The gradient against ONNX Runtime: along a direction `d` in the space of the weights, the derivative of the loss is `<gradient, d>`,
//! and ONNX Runtime gives it as `(loss(w + e d) - loss(w - e d)) / 2e`, computed on copies of the model with patched weights.

use super::values::Values;
use crate::command::Failure;
use crate::command::run::execute;
use sara_compiler::compile::{compile_gradients, unobserved};
use sara_compiler::import::{Binding, Model, external_files, read_weight};
use sara_compiler::passes::differentiate::TARGET;
use sara_compiler::select;
use sara_runtime::oracle::{Oracle, SessionOptions};
use sara_runtime::patch::{Patch, export};
use sara_runtime::plan::{Stored, Weight};
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::Tensor;
use serde::Serialize;

/// Changes of the loss, relative to it, that steps along a direction aim at. Large steps bend, small ones drown in rounding.
const CHANGES: [f64; 4] = [0.1, 0.03, 0.01, 0.003];
/// Largest relative difference of the two derivatives.
const ALLOWED: f64 = 1e-2;

/// What to compare.
pub(super) struct Options {
    /// Shapes.
    pub(super) binding: Binding,
    /// Weights to differentiate by.
    pub(super) select: select::Options,
    /// Threads.
    pub(super) threads: usize,
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
}

impl Report {
    /// Whether all directions agree.
    pub(super) fn holds(&self) -> bool {
        self.directions.iter().all(|d| d.relative <= ALLOWED)
    }

    pub(super) fn print(&self) {
        println!("  gradient of {} weights along {} directions:", self.weights, self.directions.len());
        for (i, d) in self.directions.iter().enumerate() {
            println!(
                "    {}: {:.6e}, by differences {:.6e}: {:.1e} apart (allowed {ALLOWED:.0e}){}",
                i + 1,
                d.derivative,
                d.differences,
                d.relative,
                if d.relative <= ALLOWED { "" } else { " FAILED" }
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
    let mut gradients = execute(plan, "gradients", &inputs, options.threads, &model.path)?;
    let base = gradients.remove("loss").map_or(f64::NAN, |l| l.to_f64()[0]);
    let weights: Vec<&Weight> = weights.iter().filter(|w| gradients.contains_key(&w.name)).collect();
    let probe = Probe { oracle, model, values, target: &target };
    let mut report = Report { weights: weights.len(), directions: Vec::new() };
    for part in 0..options.directions.min(weights.len()) {
        let mut moves = Vec::new();
        for weight in weights.iter().skip(part).step_by(options.directions) {
            let gradient = gradients.get(&weight.name).map(Tensor::to_f32).unwrap_or_default();
            moves.push(Move::new(model, weight, gradient, part as u64)?);
        }
        report.directions.push(probe.direction(&moves, base)?);
    }
    Ok(report)
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
    /// The direction is the gradient with each element scaled at random, so that a gradient that is wrong in any way shows.
    fn new(model: &Model, weight: &'w Weight, gradient: Vec<f32>, seed: u64) -> Result<Move<'w>, Failure> {
        let base = bytemuck::pod_collect_to_vec(&read_weight(model, weight)?);
        let mut rng = CounterRng::new(seed, weight.offset);
        let direction = gradient.iter().map(|g| g * (0.5 + rng.uniform() as f32)).collect();
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
    fn direction(&self, moves: &[Move<'_>], base: f64) -> Result<Direction, Failure> {
        let dot = |m: &Move<'_>, d: &[f32]| -> f64 {
            m.gradient.iter().zip(d).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum()
        };
        let slope: f64 = moves.iter().map(|m| dot(m, &m.direction)).sum();
        if slope == 0.0 {
            return Ok(Direction {
                weights: moves.len(),
                derivative: 0.0,
                differences: 0.0,
                relative: 0.0,
                resolution: 0.0,
            });
        }
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
                    best = Some(Direction { weights: moves.len(), derivative, differences, relative, resolution });
                }
            }
            last = Some(ratio);
        }
        best.ok_or_else(|| Failure::Plain("no step was tried".into()))
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
        export(&self.model.path, &external_files(self.model)?, &patches, &path)?;
        let mut session = self.oracle.session_from_file(&path, &SessionOptions::default())?;
        let results = session.run(&self.values.arrays)?;
        let output = results.first().and_then(|(_, array)| array.to_tensor()).map_or(Vec::new(), |t| t.to_f64());
        if output.len() != self.target.len() {
            return Err(Failure::Plain("the first output has another size in ONNX Runtime".into()));
        }
        let squares = output.iter().zip(self.target).map(|(o, t)| (o - f64::from(*t)).powi(2));
        Ok(squares.sum::<f64>() / output.len() as f64)
    }
}
