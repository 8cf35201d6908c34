//! Devices with memory of their own: what an executor needs of one, and the CUDA device.

pub mod cuda;
pub mod driver;
pub mod nvrtc;

use crate::error::Result;
use crate::map::Map;
use sara_kernels::cuda::{MatmulPrecision, Work};
use sara_kernels::{Kernel, Mode};
use std::ops::Range;
use std::sync::Arc;

/// Memory of a device that an argument of a launch may touch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Address of its first byte.
    pub address: u64,
    /// Bytes.
    pub bytes: usize,
    /// Bytes of an element.
    pub grain: usize,
    /// How it is used.
    pub mode: Mode,
    /// Its name in the kernel's declaration.
    pub name: &'static str,
}

/// CUDA source with entry points.
#[derive(Clone, Debug)]
pub enum Source {
    /// A kernel's own.
    Kernel(&'static Kernel),
    /// Of elementwise steps.
    Fused {
        /// Its name, which no other has.
        name: Arc<str>,
        /// The source.
        text: Arc<str>,
    },
}

impl Source {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Source::Kernel(kernel) => kernel.name,
            Source::Fused { name, .. } => name,
        }
    }

    /// The source, if there is any.
    pub fn text(&self) -> Option<&str> {
        match self {
            Source::Kernel(kernel) => kernel.cuda.map(|form| form.source),
            Source::Fused { text, .. } => Some(text),
        }
    }
}

/// A launch of an entry point.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What holds the entry point.
    pub source: Source,
    /// The entry point.
    pub entry: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub dynamic: u32,
    /// Kinds of the parameters, as [`sara_kernels::cuda::Param::kind`] names them.
    pub kinds: String,
    /// Bytes of each parameter.
    pub params: Vec<Vec<u8>>,
    /// All memory that it may touch.
    pub spans: Vec<Span>,
}

/// What a device is told to do.
#[derive(Clone, Debug)]
pub enum Order {
    /// To run a launch.
    Launch(Launch),
    /// To copy bytes of a mapped file into its memory.
    Stage {
        /// Number of the map.
        map: usize,
        /// The bytes.
        range: Range<usize>,
        /// The address that they go to.
        to: u64,
    },
}

/// What a device could do at most, each second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Floating-point operations in single precision.
    pub flops: f64,
    /// Floating-point operations of products in half precision.
    pub half_flops: f64,
    /// Bytes between its memory and its processors.
    pub bytes: f64,
}

/// A device on which an executor runs its plan. Addresses are those that [`Device::take`] gave, or lie in what it took.
pub trait Device: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// How exact its products in single precision are to be.
    fn precision(&self) -> MatmulPrecision;

    /// Whether elementwise steps that follow each other are to be one launch, of a source that is made for them.
    fn fuses(&self) -> bool;

    /// What it could do at most, if that is known.
    fn peaks(&self) -> Option<Peaks>;

    /// Waits until all that was ordered is done.
    fn wait(&self) -> Result<()>;

    /// Bytes of memory that are free, and of all.
    fn memory(&self) -> Result<[u64; 2]>;

    /// Takes memory, aligned to 256 bytes and filled with zeros, until [`Device::release`].
    fn take(&mut self, bytes: usize) -> Result<u64>;

    /// Gives back all memory, and forgets the programs.
    fn release(&mut self) -> Result<()>;

    /// Copies bytes into its memory.
    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Copies bytes from its memory, once all that was ordered is done.
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;

    /// Sets bytes of its memory.
    fn fill(&mut self, at: u64, bytes: usize, value: u8) -> Result<()>;

    /// Learns the programs, in the place of those that it knew.
    fn bind(&mut self, programs: Vec<Vec<Order>>) -> Result<()>;

    /// Begins to run orders of a program, after all that was begun before.
    fn run(&mut self, program: usize, orders: Range<usize>, maps: &[(String, Map)]) -> Result<()>;

    /// Runs orders of a program and returns the seconds that each took.
    fn time(&mut self, program: usize, orders: Range<usize>, maps: &[(String, Map)]) -> Result<Vec<f64>>;
}

/// The launches of a kernel whose arguments lie in `spans`, absent ones being `None`, with memory of their own at `scratch`.
pub(crate) fn launches(
    kernel: &'static Kernel,
    call: &sara_kernels::Call<'_>,
    dtypes: &[Option<sara_kernels::DType>],
    spans: &[Option<Span>],
    scratch: u64,
    precision: MatmulPrecision,
) -> Option<(Vec<Launch>, usize)> {
    let work = kernel.work(call.lens, call.scalars, dtypes, precision)?;
    let bytes = work.scratch;
    Some((launches_of(&Source::Kernel(kernel), work, spans, scratch), bytes))
}

/// The launches of `work` of a source.
pub(crate) fn launches_of(source: &Source, work: Work, spans: &[Option<Span>], scratch: u64) -> Vec<Launch> {
    let several = work.steps.len() > 1;
    let used: Vec<Span> = spans
        .iter()
        .flatten()
        .copied()
        // Several launches may share the writing of an argument.
        .map(|s| Span { mode: if several && s.mode == Mode::Write { Mode::Update } else { s.mode }, ..s })
        .chain([Span { address: scratch, bytes: work.scratch, grain: 4, mode: Mode::Update, name: "its own memory" }])
        .collect();
    let address = |arg: usize, element: usize| spans[arg].map_or(0, |s| s.address + (element * s.grain) as u64);
    let launches = work.steps.into_iter().map(|step| Launch {
        source: source.clone(),
        kinds: step.kinds(),
        params: step.params.iter().map(|p| p.bytes(address, scratch)).collect(),
        spans: used.clone(),
        entry: step.entry,
        grid: step.grid,
        threads: step.threads,
        dynamic: step.dynamic,
    });
    launches.collect()
}
