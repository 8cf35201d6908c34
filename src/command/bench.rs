//! `sara bench`: what a training step takes, kernel by kernel, against what the machine can do.

use super::options::{Dims, HowMany, Memory, On, Select, Threads};
use super::{Failure, report};
use sara_compiler::compile::{TrainOptions, compile_training, unobserved};
use sara_compiler::import::Model;
use sara_kernels::hyper;
use sara_runtime::device::Peaks;
use sara_runtime::executor::{Executor, Timing};
use sara_runtime::plan::{Plan, Step};
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::Tensor;
use serde::Serialize;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Seconds for which the dense product is timed.
const FLOOR_SECONDS: f64 = 0.5;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The ONNX model, or a plan.
    model: PathBuf,
    #[command(flatten)]
    dims: Dims,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    amount: HowMany,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    on: On,
    /// Times that each program runs after a first; the fastest counts.
    #[arg(long, value_name = "N", default_value = "3")]
    repeat: NonZeroUsize,
    /// Launches to list for each program, slowest first.
    #[arg(long, value_name = "N", default_value_t = 0)]
    slowest: usize,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    /// What computed: `cpu`, or the device's name.
    device: String,
    threads: usize,
    /// Rate that a kernel without memory traffic could have, in 10^9 floating-point operations a second: on a CPU that of a dense
    /// product, on a device its peak in single precision.
    floor_gflops: f64,
    /// `train` and `update` together.
    step_seconds: f64,
    forward_seconds: f64,
    trainable: u64,
    memory: report::Memory,
    /// Largest resident memory of this process so far, where the system tells.
    peak_resident: Option<u64>,
    programs: Vec<Program>,
}

/// One program, in its fastest run.
#[derive(Serialize)]
struct Program {
    name: String,
    seconds: f64,
    kernels: Vec<Line>,
    slowest: Vec<Line>,
}

/// Launches of one kernel, or one launch.
#[derive(Serialize, Default)]
struct Line {
    name: String,
    launches: usize,
    seconds: f64,
    flops: u64,
    bytes: u64,
    /// Seconds that it could have taken as a share of those that it took.
    of_floor: f64,
    #[serde(skip)]
    floor_seconds: f64,
}

/// What launches could take at least.
#[derive(Clone, Copy)]
enum Floor {
    /// By the rate of a dense product.
    Product(f64),
    /// By what a device could compute and move.
    Roofline(Peaks),
}

impl Floor {
    fn seconds(self, timing: &Timing) -> f64 {
        match self {
            Floor::Product(rate) => timing.flops as f64 / rate,
            Floor::Roofline(peaks) => {
                let rate = if timing.half { peaks.half_flops } else { peaks.flops };
                (timing.flops as f64 / rate).max(timing.bytes as f64 / peaks.bytes)
            }
        }
    }

    fn rate(self) -> f64 {
        match self {
            Floor::Product(rate) => rate,
            Floor::Roofline(peaks) => peaks.flops,
        }
    }
}

impl Line {
    fn add(&mut self, timing: Timing, floor: Floor) {
        self.launches += 1;
        self.seconds += timing.seconds;
        self.flops += timing.flops;
        self.bytes += timing.bytes;
        self.floor_seconds += floor.seconds(&timing);
        self.of_floor = if self.seconds > 0.0 { self.floor_seconds / self.seconds } else { 0.0 };
    }

    fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.flops as f64 / self.seconds / 1e9 } else { 0.0 }
    }

    fn cells(&self, total: f64) -> Vec<String> {
        vec![
            self.name.clone(),
            self.launches.to_string(),
            format!("{:.1}", self.seconds * 1e3),
            format!("{:.1}", 100.0 * self.seconds / total.max(f64::MIN_POSITIVE)),
            format!("{:.1}", self.flops as f64 / 1e9),
            format!("{:.1}", self.rate()),
            format!("{:.1}", self.bytes as f64 / self.seconds.max(f64::MIN_POSITIVE) / 1e9),
            format!("{:.0}", 100.0 * self.of_floor),
        ]
    }
}

const HEAD: [&str; 8] = ["kernel", "launches", "ms", "% time", "GF", "GF/s", "GB/s", "% floor"];

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let threads = args.threads.count();
    let is_model = args.model.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    let device = args.on.open()?;
    let plan = if is_model {
        let model = Model::open(&args.model)?;
        let options = TrainOptions::new(args.dims.binding(), args.select.options(), args.amount.amount()?);
        let options = args.memory.apply(options, device.as_deref(), threads)?;
        compile_training(&model, &options, &mut unobserved())?
    } else {
        Plan::load(&args.model)?
    };
    let trainable = plan.selection.trainable;
    let mut executor = Executor::on(plan, threads, None, device)?;
    let memory = report::Memory::of(executor.plan(), executor.site());
    let floor = match executor.peaks() {
        Some(peaks) => Floor::Roofline(peaks),
        None => Floor::Product(
            sara_kernels::dense_rate(threads, FLOOR_SECONDS)
                .map_err(|e| Failure::Plain(format!("no threads could be started: {e}")))?,
        ),
    };
    // A learning rate of zero, and no division by zero: weights stay as they are.
    for slot in [hyper::EPSILON, hyper::CORRECTION1, hyper::CORRECTION2, hyper::GRADIENT_SCALE] {
        executor.hyper()[slot] = 1.0;
    }
    let mut programs = Vec::new();
    for name in ["forward", "train", "update"] {
        if executor.plan().program(name).is_some() {
            programs.push(program(&mut executor, name, args, floor)?);
        }
    }
    let seconds =
        |wanted: &[&str]| programs.iter().filter(|p| wanted.contains(&p.name.as_str())).map(|p| p.seconds).sum::<f64>();
    let report = Report {
        device: executor.device().unwrap_or("cpu").to_owned(),
        threads,
        floor_gflops: floor.rate() / 1e9,
        step_seconds: seconds(&["train", "update"]),
        forward_seconds: seconds(&["forward"]),
        trainable,
        memory,
        peak_resident: report::peak_resident(),
        programs,
    };
    if args.json {
        return report::json(&report);
    }
    for p in &report.programs {
        let head = HEAD.map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> =
            std::iter::once(head).chain(p.kernels.iter().map(|k| k.cells(p.seconds))).collect();
        say!("{}: {:.3} s\n{}", p.name, p.seconds, report::table(&rows));
        if !p.slowest.is_empty() {
            let rows: Vec<Vec<String>> = p.slowest.iter().map(|k| k.cells(p.seconds)).collect();
            say!("slowest launches\n{}", report::table(&rows));
        }
    }
    report.memory.print();
    if let Some(bytes) = report.peak_resident {
        say!("resident at most {}", report::bytes(bytes));
    }
    match floor {
        Floor::Product(_) => say!("a dense product runs at {:.1} GF/s on {threads} threads", report.floor_gflops),
        Floor::Roofline(peaks) => say!(
            "{} could do {:.1} TF/s in single and {:.1} TF/s in half precision, and move {:.2} TB/s",
            report.device,
            peaks.flops / 1e12,
            peaks.half_flops / 1e12,
            peaks.bytes / 1e12
        ),
    }
    say!("forward {:.3} s, step {:.3} s", report.forward_seconds, report.step_seconds);
    Ok(())
}

/// Times one program on random inputs.
fn program(executor: &mut Executor, name: &str, args: &Args, floor: Floor) -> Result<Program, Failure> {
    let mut best: Option<Vec<Timing>> = None;
    let total = |run: &[Timing]| run.iter().map(|t| t.seconds).sum::<f64>();
    for _ in 0..=args.repeat.get() {
        set_inputs(executor, name)?;
        let run = executor.time(name)?;
        // The first run meets cold memory; it stands only until there is another.
        if best.as_ref().is_none_or(|b| total(&run) < total(b)) {
            best = Some(run);
        }
    }
    let timings = best.unwrap_or_default();
    let Some(program) = executor.plan().program(name) else { return Err(Failure::Plain(format!("no `{name}`"))) };
    let mut kernels: BTreeMap<&str, Line> = BTreeMap::new();
    let mut slowest = Vec::new();
    for (step, timing) in program.steps.iter().zip(&timings) {
        kernels.entry(step.kernel.name).or_default().add(*timing, floor);
        let mut line = Line { name: name_of(executor.plan(), step), ..Line::default() };
        line.add(*timing, floor);
        slowest.push(line);
    }
    let mut kernels: Vec<Line> =
        kernels.into_iter().map(|(name, line)| Line { name: name.to_owned(), ..line }).collect();
    for lines in [&mut kernels, &mut slowest] {
        lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    }
    slowest.truncate(args.slowest);
    let seconds = match executor.device() {
        None => total(&timings),
        // A device runs a program faster as a whole than launch by launch.
        Some(_) => {
            let mut least = f64::INFINITY;
            for _ in 0..=args.repeat.get() {
                least = least.min(executor.clock(name)?);
            }
            least
        }
    };
    Ok(Program { name: name.to_owned(), seconds, kernels, slowest })
}

/// The kernel of a launch, and the node that it computes or the weight whose entries it takes.
fn name_of(plan: &Plan, step: &Step) -> String {
    let sparse = step.args.iter().flatten().find_map(|id| plan.buffer(*id).place.sparse());
    let weight = sparse.map(|s| plan.weights[plan.sparse[s as usize].weight as usize].name.as_str());
    let node = Some(step.origin.as_str()).filter(|origin| !origin.is_empty());
    let kernel = step.kernel.name;
    node.or(weight).map_or_else(|| kernel.to_owned(), |of| format!("{kernel} of {of}"))
}

/// Sets a program's inputs: numbers in -1..1, and zero where they are integers.
fn set_inputs(executor: &mut Executor, program: &str) -> Result<(), Failure> {
    let Some(own) = executor.plan().program(program) else { return Ok(()) };
    let mut rng = CounterRng::new(0, 0);
    let mut tensors = Vec::new();
    for port in &own.inputs {
        let shape: Vec<usize> = port.shape.iter().map(|d| *d as usize).collect();
        let len = shape.iter().product();
        let dtype = executor.plan().buffer(port.buffer).dtype;
        let tensor = if dtype.is_float() {
            Tensor::f32(&shape, (0..len).map(|_| (2.0 * rng.uniform() - 1.0) as f32).collect())
        } else {
            Tensor::from_bytes(dtype, &shape, &vec![0; len * dtype.size()])
        };
        tensors.extend(tensor.map(|t| (port.name.clone(), t)));
    }
    for (name, tensor) in &tensors {
        executor.set_input(program, name, tensor)?;
    }
    Ok(())
}
