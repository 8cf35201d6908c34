//! Options that several commands share.

use super::Failure;
use clap::{Args, ValueEnum};
use regex::Regex;
use sara_compiler::compile::{Observer, Precision, Residency, TrainOptions};
use sara_compiler::fit::Fit;
use sara_compiler::import::{Binding, Model, external_files};
use sara_compiler::ir::Graph;
use sara_compiler::select::{self, Amount, Pick, Scope};
use sara_kernels::cuda::MatmulPrecision;
use sara_models::pipeline::Pipeline;
use sara_runtime::device::Device;
use sara_runtime::device::cuda::Cuda;
use sara_runtime::device::driver;
use sara_runtime::executor::Site;
use sara_runtime::source::Source;
use sara_runtime::tensor::Tensors;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Shapes.
#[derive(Args, Clone, Default)]
pub(super) struct Dims {
    /// Size of a named dimension, such as batch=2; repeat for more.
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = parse_dim)]
    dims: Vec<(String, usize)>,
}

fn parse_dim(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.split_once('=').ok_or("write NAME=SIZE, such as batch=2")?;
    match size.trim().parse() {
        Ok(size) if size > 0 => Ok((name.trim().to_owned(), size)),
        _ => Err(format!("`{size}` is not a size of 1 or more")),
    }
}

impl Dims {
    /// The binding that the flags ask for.
    pub(super) fn binding(&self) -> Binding {
        Binding { dims: self.dims.iter().cloned().collect(), ..Binding::default() }
    }

    /// The same, with inputs of these tensors' shapes.
    pub(super) fn binding_for(&self, inputs: &Tensors, not: &[&str]) -> Binding {
        let shapes = inputs.iter().filter(|(name, _)| !not.contains(&name.as_str()));
        Binding { shapes: shapes.map(|(n, t)| (n.clone(), t.shape().to_vec())).collect(), ..self.binding() }
    }
}

/// Which weights train.
#[derive(Args, Clone)]
pub(super) struct Select {
    /// Kinds of weights: the matrices of convolutions and products, or every weight.
    #[arg(long, value_enum, default_value = "matrices")]
    select: ScopeArg,
    /// Which entries of them: smallest, the paper's rule; or, to compare with, largest, random or random:SEED.
    #[arg(long, value_name = "WHICH", default_value = "smallest", value_parser = parse_pick)]
    pick: Pick,
    /// Only weights whose ONNX name or node path matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    target: Option<Regex>,
    /// No weights whose ONNX name or node path matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    exclude: Option<Regex>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeArg {
    Matrices,
    All,
}

impl Select {
    pub(super) fn options(&self) -> select::Options {
        let scope = match self.select {
            ScopeArg::Matrices => Scope::Matrices,
            ScopeArg::All => Scope::All,
        };
        select::Options { scope, pick: self.pick, target: self.target.clone(), exclude: self.exclude.clone() }
    }
}

/// How many entries train.
#[derive(Args, Clone)]
#[group(multiple = false)]
pub(super) struct HowMany {
    /// Entries with |w| below this train (the paper's rule). Default 2e-3.
    #[arg(long, value_name = "T")]
    threshold: Option<f64>,
    /// About this many entries train, by the threshold that gives it: 5M, 200k or a number.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    trainable_params: Option<u64>,
    /// This share of each weight trains, its smallest entries: 1% or 0.01.
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    density: Option<f64>,
}

impl HowMany {
    pub(super) fn amount(&self) -> Result<Amount, Failure> {
        if let Some(t) = self.threshold.filter(|t| !(t.is_finite() && *t > 0.0)) {
            return Err(Failure::Usage(format!("--threshold must be a number above 0, not {t}")));
        }
        Ok(match (self.threshold, self.trainable_params, self.density) {
            (_, Some(count), _) => Amount::Count(count),
            (_, _, Some(share)) => Amount::Density(share),
            (threshold, None, None) => Amount::Threshold(threshold.unwrap_or(2e-3)),
        })
    }
}

fn parse_pick(text: &str) -> Result<Pick, String> {
    match text {
        "smallest" => Ok(Pick::Smallest),
        "largest" => Ok(Pick::Largest),
        "random" => Ok(Pick::Random(42)),
        _ => text
            .strip_prefix("random:")
            .and_then(|seed| seed.parse().ok())
            .map(Pick::Random)
            .ok_or_else(|| "smallest, largest, random or random:SEED".to_owned()),
    }
}

fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.to_ascii_lowercase().strip_suffix(['k', 'm', 'b']) {
        Some(digits) => (digits.to_owned(), text.to_ascii_lowercase().pop().unwrap_or('k')),
        None => (text.to_owned(), '1'),
    };
    let factor = match unit {
        'k' => 1e3,
        'm' => 1e6,
        'b' => 1e9,
        _ => 1.0,
    };
    match digits.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok((n * factor) as u64),
        _ => Err("write a number such as 5M, 200k or 12345".into()),
    }
}

pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let (digits, factor) = text.strip_suffix('%').map_or((text, 1.0), |d| (d, 0.01));
    match digits.parse::<f64>() {
        Ok(n) if n > 0.0 && n * factor <= 1.0 => Ok(n * factor),
        _ => Err("write a share above 0 and at most 1, such as 1% or 0.01".into()),
    }
}

/// The model that a command works on.
#[derive(Args, Clone)]
pub(super) struct ModelArg {
    /// The ONNX model, or the folder of a pipeline, of which the denoiser is meant.
    pub(super) model: PathBuf,
    /// A folder within which the model's external data may lie, beside the model's own.
    #[arg(long, value_name = "DIR")]
    external_data_root: Option<PathBuf>,
}

impl ModelArg {
    /// Opens the model, or the denoiser of the pipeline.
    pub(super) fn open(&self) -> Result<Model, Failure> {
        let model = match Pipeline::is_pipeline(&self.model) {
            true => Pipeline::open(&self.model)?.denoiser.model,
            false => self.model.clone(),
        };
        Ok(Model::open_source(Source { model, root: self.external_data_root.clone() })?)
    }
}

/// How much memory training may take, and for what.
#[derive(Args, Clone, Copy)]
pub(super) struct Memory {
    /// Memory that training may take, such as 6GiB or 3750MiB: more of the forward is then computed twice. Exit code 5 if it
    /// cannot be met.
    #[arg(long = "memory-limit", value_name = "SIZE", value_parser = parse_bytes)]
    pub(super) limit: Option<u64>,
    /// Where weights are while training: in memory, or in the model's files, from which each is copied for the node that reads it.
    #[arg(long, value_enum, default_value_t = Weights::Resident)]
    pub(super) weights: Weights,
    /// What weights of products and convolutions, and what is kept for the backward, are stored in. Sums and trained values are in
    /// single precision. With bf16, linear layers, attention and most convolutions also multiply in it, and what only they read is made in it; fp16 is eight times
    /// as exact and holds numbers up to 65504.
    #[arg(long, value_enum, default_value_t = MixedPrecision::No)]
    pub(super) mixed_precision: MixedPrecision,
    /// Store the two moments of AdamW in a byte each, with a scale for each block of them.
    #[arg(long = "use-8bit-adam")]
    pub(super) use_8bit_adam: bool,
}

impl Memory {
    /// These options, for training on a device or on so many threads. Where nothing else is said, a device's memory is the limit.
    pub(super) fn apply(
        self,
        options: TrainOptions,
        device: Option<&dyn Device>,
        threads: usize,
    ) -> Result<TrainOptions, Failure> {
        let (mut memory_limit, mut site) = (self.limit, Site::Cpu { threads });
        if let Some(device) = device {
            let [free, _] = device.memory()?;
            site = Site::Device(device.precision());
            let room = free - free / RESERVED;
            if memory_limit.is_none_or(|limit| limit > room) {
                let [free, limit] = [free, room].map(super::report::bytes);
                eprintln!("{} has {free} free; training may take {limit} of it", device.name());
                memory_limit = Some(room);
            }
        }
        Ok(TrainOptions {
            memory_limit,
            weights: self.weights.into(),
            precision: self.mixed_precision.into(),
            use_8bit_adam: self.use_8bit_adam,
            site,
            threads,
            ..options
        })
    }
}

/// One part in so many of a device's memory is left to the driver, which keeps code and recorded steps there.
const RESERVED: u64 = 32;

/// The flags that ask for such settings.
pub(super) fn flags(fit: &Fit) -> String {
    let precision = match fit.precision {
        Precision::Single => "",
        Precision::Bf16 => "--mixed-precision bf16",
        Precision::Fp16 => "--mixed-precision fp16",
    };
    let weights = if fit.weights == Residency::Streamed { "--weights streamed" } else { "" };
    let moments = if fit.use_8bit_adam { "--use-8bit-adam" } else { "" };
    [weights, precision, moments].into_iter().filter(|flag| !flag.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether half precision is used.
#[derive(ValueEnum, Clone, Copy)]
pub(super) enum MixedPrecision {
    No,
    Bf16,
    Fp16,
}

impl From<MixedPrecision> for Precision {
    fn from(precision: MixedPrecision) -> Precision {
        match precision {
            MixedPrecision::No => Precision::Single,
            MixedPrecision::Bf16 => Precision::Bf16,
            MixedPrecision::Fp16 => Precision::Fp16,
        }
    }
}

/// Where weights are while training.
#[derive(ValueEnum, Clone, Copy)]
pub(super) enum Weights {
    Resident,
    Streamed,
}

impl From<Weights> for Residency {
    fn from(weights: Weights) -> Residency {
        match weights {
            Weights::Resident => Residency::Resident,
            Weights::Streamed => Residency::Streamed,
        }
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 9] = [
        ("kib", 1024.0),
        ("mib", 1048576.0),
        ("gib", 1073741824.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("k", 1024.0),
        ("m", 1048576.0),
        ("g", 1073741824.0),
    ];
    let lower = text.to_ascii_lowercase();
    let (digits, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor))).unwrap_or((&lower, 1.0));
    match digits.trim().parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok((n * factor) as u64),
        _ => Err("write a size such as 6GiB, 3750MiB or 4e9".into()),
    }
}

/// A path, and a scale after a colon if it is not 1.
pub(super) fn parse_scaled(text: &str) -> Result<(PathBuf, f32), String> {
    if let Some((path, scale)) = text.rsplit_once(':')
        && let Ok(scale) = scale.parse::<f32>()
    {
        return if scale.is_finite() { Ok((path.into(), scale)) } else { Err(format!("`{scale}` is not a scale")) };
    }
    Ok((text.into(), 1.0))
}

/// Height and width in pixels.
pub(super) type Size = [usize; 2];

/// A side, or WIDTHxHEIGHT.
pub(super) fn parse_size(text: &str) -> Result<Size, String> {
    let side = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n > 0);
    let (width, height) = text.split_once(['x', 'X']).unwrap_or((text, text));
    match (side(height), side(width)) {
        (Some(height), Some(width)) => Ok([height, width]),
        _ => Err("write a side such as 512, or WIDTHxHEIGHT such as 640x448".into()),
    }
}

/// Threads.
#[derive(Args, Clone, Copy)]
pub(super) struct Threads {
    /// Threads to compute with; all cores by default. Results do not depend on it.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl Threads {
    pub(super) fn count(self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DeviceName {
    #[default]
    Cpu,
    Cuda(usize),
    Auto,
}

impl std::str::FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceName, String> {
        match text {
            "cpu" => Ok(DeviceName::Cpu),
            "auto" => Ok(DeviceName::Auto),
            "cuda" => Ok(DeviceName::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceName::Cuda)
                .ok_or_else(|| "must be cpu, cuda, cuda:N or auto".to_owned()),
        }
    }
}

/// The device flag.
#[derive(Clone, Copy, clap::Args)]
pub(super) struct On {
    /// Device to compute on, or for whose memory `compile` makes a plan: cpu, cuda, cuda:N, or auto, which is cuda where there is a device.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceName,
    /// How exact a GPU's products in single precision are: highest; high, which multiplies on tensor cores (three bfloat16 products for
    /// one) and is several times as fast, but for attention; or tf32, which is faster still, attention
    /// with heads of up to 160 elements too, and keeps 10 bits after the point.
    #[arg(long, value_name = "P", default_value = "highest")]
    matmul_precision: Exactness,
}

/// [`MatmulPrecision`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum Exactness {
    Highest,
    High,
    Tf32,
}

impl On {
    /// Opens the device; none if it is the CPU.
    pub(super) fn open(self) -> Result<Option<Box<dyn Device>>, Failure> {
        let ordinal = match self.device {
            DeviceName::Cpu => return Ok(None),
            DeviceName::Auto if !driver::devices().is_ok_and(|(found, _)| !found.is_empty()) => return Ok(None),
            DeviceName::Auto => 0,
            DeviceName::Cuda(ordinal) => ordinal,
        };
        let precision = match self.matmul_precision {
            Exactness::Highest => MatmulPrecision::Highest,
            Exactness::High => MatmulPrecision::High,
            Exactness::Tf32 => MatmulPrecision::Tf32,
        };
        Ok(Some(Box::new(Cuda::open(ordinal, precision)?)))
    }
}

const PASSES: [&str; 11] = [
    "import",
    "fold",
    "canonicalise",
    "sparsify",
    "differentiate",
    "gradients",
    "update",
    "fuse",
    "join",
    "schedule",
    "rematerialise",
];

/// Looking at passes.
#[derive(Args, Clone, Default)]
pub(super) struct Dump {
    /// Print the graph after this pass (import, fold, canonicalise, sparsify, differentiate, gradients, update, fuse, join, schedule, rematerialise) to stdout.
    #[arg(long, value_name = "PASS", value_parser = PASSES, hide_possible_values = true)]
    dump_after: Option<String>,
}

impl Dump {
    /// An observer that prints the graph the flag asks for.
    pub(super) fn observer(&self) -> impl FnMut(&str, &Graph) -> sara_compiler::Result<()> + '_ {
        move |pass, graph| {
            if self.dump_after.as_deref() == Some(pass) {
                say!("{graph}");
            }
            Ok(())
        }
    }
}

/// Refuses to write over a file that the command reads: the model, its external data, or one of `others`.
pub(super) fn spare(output: &Path, model: &Model, others: &[&Path]) -> Result<(), Failure> {
    // A file that does not exist yet is none of those that are read.
    let Ok(target) = output.canonicalize() else { return Ok(()) };
    let external = external_files(model)?.into_iter().map(|file| model.source.path(&file));
    let mut read = external.chain([model.path().to_owned()]).chain(others.iter().map(PathBuf::from));
    match read.find(|path| path.canonicalize().is_ok_and(|path| path == target)) {
        None => Ok(()),
        Some(path) => Err(Failure::Plain(format!(
            "{}: writing here would overwrite {}, which the command reads; choose another path",
            output.display(),
            path.display()
        ))),
    }
}

/// Makes a closure usable as [`Observer`].
pub(super) fn observe<F: FnMut(&str, &Graph) -> sara_compiler::Result<()>>(observer: &mut F) -> Observer<'_> {
    observer
}
