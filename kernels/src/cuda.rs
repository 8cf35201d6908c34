//! The CUDA form of a kernel: its source, and the launches that a call becomes.
//!
//! Nothing here knows a driver. A launch names an entry point of the kernel's source, blocks, threads and parameters; what
//! runs it, a GPU or the tests' stand-in for one, puts in the addresses.

use crate::grid::Grid;
use crate::{Call, DType, Scalar, TypedCall, for_integer};

/// Source that every `kernel.cu` includes as `kernel.h`.
pub const HEADER: &str = include_str!("kernel.h");
/// What some kernels share: the names by which they include it, and the sources.
pub const SHARED: &[(&str, &str)] = &[
    ("adamw.h", include_str!("adamw.h")),
    ("attention.h", include_str!("attention.h")),
    ("attention_tensor.h", include_str!("attention_tensor.h")),
    ("conv.h", include_str!("conv.h")),
    ("convert.h", include_str!("convert.h")),
    ("function.h", include_str!("function.h")),
    ("gemm.h", include_str!("gemm.h")),
    ("half.h", include_str!("half.h")),
    ("masked.h", include_str!("masked.h")),
    ("norm.h", include_str!("norm.h")),
    ("operand.h", include_str!("operand.h")),
    ("pair.h", include_str!("pair.h")),
    ("product.h", include_str!("product.h")),
    ("sums.h", include_str!("sums.h")),
    ("tensor.h", include_str!("tensor.h")),
];

/// The CUDA form of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Cuda {
    /// `kernel.cu`.
    pub source: &'static str,
    /// The launches that a call becomes, in order.
    pub plan: fn(&Task<'_>, &mut Work),
}

/// How exact products of operands in single precision are; `torch.set_float32_matmul_precision` has the first two, and takes either
/// of the last two for "high".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// In single precision.
    #[default]
    Highest,
    /// By tensor cores: each operand as the sum of two bfloat16, which loses what is below 2^-16 of it.
    High,
    /// By tensor cores: each operand rounded to tf32, which loses what is below 2^-11 of it.
    Tf32,
}

/// A call for a device.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    call: TypedCall<'a>,
    precision: MatmulPrecision,
}

impl<'a> std::ops::Deref for Task<'a> {
    type Target = TypedCall<'a>;
    fn deref(&self) -> &TypedCall<'a> {
        &self.call
    }
}

impl<'a> Task<'a> {
    /// A call whose arguments have these types; none where one is absent.
    pub fn new(call: Call<'a>, dtypes: &'a [Option<DType>], precision: MatmulPrecision) -> Task<'a> {
        Task { call: TypedCall::new(call, dtypes), precision }
    }

    /// What the names of entry points of a product of these arguments end with: `_split` or `_tensor` if tensor cores multiply
    /// what is in single precision.
    pub(crate) fn products(&self, operands: [&str; 2]) -> &'static str {
        let single = operands.iter().all(|name| self.dtype(name) == DType::F32);
        match self.precision {
            MatmulPrecision::High if single => "_split",
            MatmulPrecision::Tf32 if single => "_tensor",
            _ => "",
        }
    }

    /// The name of its type in the names of entry points; truth values are bytes.
    pub fn kind(&self, name: &str) -> &'static str {
        match self.dtype(name) {
            DType::Bool => "u8",
            other => other.name(),
        }
    }

    /// The name of its width in the names of entry points.
    pub fn width(&self, name: &str) -> &'static str {
        match self.dtype(name).size() {
            8 => "b8",
            4 => "b4",
            2 => "b2",
            _ => "b1",
        }
    }

    /// A parameter that is the argument `name`; null if it is absent.
    pub fn at(&self, name: &str) -> Param {
        Param::Arg { arg: self.kernel.arg(name), element: 0 }
    }

    /// A parameter that is the argument `name` from the element `element` on.
    pub fn from(&self, name: &str, element: usize) -> Param {
        Param::Arg { arg: self.kernel.arg(name), element }
    }

    /// A parameter that is the integer `name`.
    pub fn long(&self, name: &str) -> Param {
        Param::I64(self.int(name) as i64)
    }

    /// A real number in the element type of the argument `like`.
    pub fn real(&self, value: f64, like: &str) -> Param {
        if self.dtype(like) == DType::F64 { Param::F64(value) } else { Param::F32(value as f32) }
    }

    /// The index space of the list `shape`, walked with the lists of strides.
    pub fn space<const N: usize>(&self, shape: &str, strides: [&str; N]) -> Param {
        space(&Grid::of(self.ints(shape), strides.map(|s| self.ints(s))))
    }
}

/// An index space as `Space` in `kernel.h` has it.
pub(crate) fn space<const N: usize>(grid: &Grid<N>) -> Param {
    const RANK: usize = crate::grid::RANK;
    let mut words = vec![0; 1 + RANK * (1 + N)];
    words[0] = grid.dims().len() as i64;
    for (d, dim) in grid.dims().iter().enumerate() {
        words[1 + d] = dim.size as i64;
        for (k, stride) in dim.strides.iter().enumerate() {
            words[1 + RANK * (1 + k) + d] = *stride as i64;
        }
    }
    Param::Struct(words)
}

/// A parameter of an entry point.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// Address of an argument, from an element on.
    Arg {
        /// Which.
        arg: usize,
        /// The element.
        element: usize,
    },
    /// Address of a byte of the launch's own memory.
    Scratch(usize),
    /// An integer of 32 bits.
    I32(i32),
    /// An integer of 64 bits.
    I64(i64),
    /// A real number in single precision.
    F32(f32),
    /// A real number in double precision.
    F64(f64),
    /// A structure of integers of 64 bits.
    Struct(Vec<i64>),
    /// `Split` of `product.h`: a byte of the launch's own memory, if any, and the terms of a share.
    Split {
        /// The byte.
        parts: Option<usize>,
        /// The terms.
        share: i64,
    },
}

impl Param {
    /// An integer of 64 bits.
    pub(crate) fn long(value: usize) -> Param {
        Param::I64(value as i64)
    }

    /// The kind: `p` an address, `i` and `l` integers of 32 and 64 bits, `f` and `d` floats, `sN` a structure of `N` bytes.
    pub fn kind(&self) -> String {
        match self {
            Param::Arg { .. } | Param::Scratch(_) => "p".to_owned(),
            Param::I32(_) => "i".to_owned(),
            Param::I64(_) => "l".to_owned(),
            Param::F32(_) => "f".to_owned(),
            Param::F64(_) => "d".to_owned(),
            Param::Struct(words) => format!("s{}", words.len() * 8),
            Param::Split { .. } => "s16".to_owned(),
        }
    }

    /// The bytes, with the addresses of the arguments' elements and of the launch's own memory.
    pub fn bytes(&self, arg: impl Fn(usize, usize) -> u64, scratch: u64) -> Vec<u8> {
        match self {
            Param::Arg { arg: which, element } => arg(*which, *element).to_ne_bytes().to_vec(),
            Param::Scratch(at) => (scratch + *at as u64).to_ne_bytes().to_vec(),
            Param::I32(v) => v.to_ne_bytes().to_vec(),
            Param::I64(v) => v.to_ne_bytes().to_vec(),
            Param::F32(v) => v.to_ne_bytes().to_vec(),
            Param::F64(v) => v.to_ne_bytes().to_vec(),
            Param::Struct(words) => words.iter().flat_map(|w| w.to_ne_bytes()).collect(),
            Param::Split { parts, share } => {
                let parts = parts.map_or(0, |at| scratch + at as u64);
                [parts.to_ne_bytes(), share.to_ne_bytes()].concat()
            }
        }
    }
}

/// One launch on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The entry point.
    pub entry: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub dynamic: u32,
    /// The parameters.
    pub params: Vec<Param>,
}

impl Step {
    /// Kinds of the parameters, one after the other.
    pub fn kinds(&self) -> String {
        self.params.iter().map(Param::kind).collect()
    }
}

/// The launches that a call becomes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// In order.
    pub steps: Vec<Step>,
    /// Bytes of memory of its own, which need not be set.
    pub scratch: usize,
}

/// Threads of a block of most kernels, as `kernel.h` has it.
pub const THREADS: u32 = 256;
/// Elements of a block of an elementwise kernel, as `kernel.h` has it.
const GRAIN: usize = 1024;
/// Blocks that occupy a device: a product of fewer tiles has its terms shared out.
const BLOCKS: usize = 256;
/// Terms of a share at least.
const LEAST_SHARE: usize = 256;
/// Blocks in the second and third direction at most.
pub(crate) const MOST_ACROSS: usize = 65_535;

impl Work {
    /// Adds a launch, unless it has no blocks.
    pub fn launch(&mut self, entry: impl Into<String>, grid: [usize; 3], threads: u32, params: Vec<Param>) {
        if grid.contains(&0) {
            return;
        }
        debug_assert!(grid[0] <= i32::MAX as usize);
        self.steps.push(Step { entry: entry.into(), grid: grid.map(|g| g as u32), threads, dynamic: 0, params });
    }

    /// Adds a launch of a block for each of `blocks`.
    pub fn blocks(&mut self, entry: impl Into<String>, blocks: usize, threads: u32, params: Vec<Param>) {
        self.launch(entry, [blocks, 1, 1], threads, params);
    }

    /// Adds a launch of an elementwise kernel on `n` elements.
    pub fn each(&mut self, entry: impl Into<String>, n: usize, params: Vec<Param>) {
        self.blocks(entry, n.div_ceil(GRAIN), THREADS, params);
    }

    /// Shares out the terms of a product of `dims` rows, columns and terms, for each of `images`, whose sums are `dtype`.
    pub(crate) fn split(&mut self, dims: [usize; 3], images: usize, dtype: DType) -> Split {
        let [m, n, _] = dims;
        self.split_places(dims, images, images * m * n, dtype)
    }

    /// As [`Work::split`], where only `places` results are kept.
    pub(crate) fn split_places(&mut self, dims: [usize; 3], images: usize, places: usize, dtype: DType) -> Split {
        let [m, n, terms] = dims;
        let side = if dtype == DType::F64 { 64 } else { 128 };
        let tiles = m.div_ceil(side) * n.div_ceil(side);
        let shares = (BLOCKS / (tiles * images).max(1)).min(terms / LEAST_SHARE);
        if shares < 2 {
            return Split { tiles, shares: 1, share: terms, parts: None };
        }
        // Shares end with whole steps.
        let share = terms.div_ceil(shares).next_multiple_of(32);
        let shares = terms.div_ceil(share);
        let Param::Scratch(at) = self.scratch(shares * places * dtype.size()) else { unreachable!() };
        Split { tiles, shares, share, parts: Some(at) }
    }

    /// Adds the launch of a product over `images` whose terms are shared out.
    pub(crate) fn tiles(&mut self, entry: impl Into<String>, split: &Split, images: usize, params: Vec<Param>) {
        self.launch(entry, [split.tiles, split.shares, images], THREADS, params);
    }

    /// Adds the launch that sums up the shares of `n` results, if there are several.
    pub(crate) fn join(&mut self, entry: impl Into<String>, split: &Split, out: Param, n: usize) {
        if let Some(parts) = split.parts() {
            self.each(entry, n, vec![parts, out, Param::long(n), Param::long(split.shares)]);
        }
    }

    /// Takes `bytes` of memory for the launches of this call.
    pub fn scratch(&mut self, bytes: usize) -> Param {
        let at = self.scratch;
        self.scratch += bytes.next_multiple_of(64);
        Param::Scratch(at)
    }
}

/// How the terms of a product are shared out.
pub(crate) struct Split {
    /// Tiles of the result.
    tiles: usize,
    /// Shares of the terms.
    shares: usize,
    share: usize,
    parts: Option<usize>,
}

impl Split {
    /// The parameter of the product.
    pub(crate) fn param(&self) -> Param {
        Param::Split { parts: self.parts, share: self.share as i64 }
    }

    /// How many shares.
    pub(crate) fn shares(&self) -> usize {
        self.shares
    }

    /// Where the sums of the shares lie, if there are several.
    pub(crate) fn parts(&self) -> Option<Param> {
        self.parts.map(Param::Scratch)
    }
}

/// A number as an element of an integer type, within its range, in 64 bits.
#[expect(clippy::unnecessary_cast, reason = "one of the types is i64")]
pub(crate) fn whole(value: f64, dtype: DType) -> i64 {
    for_integer!(dtype, T => value as T as i64)
}

/// The number that stands for `word` in the parameters of an entry point: its place in the list.
pub fn code(words: &[&str], word: &str) -> Param {
    Param::I32(number(words, word) as i32)
}

/// The place of `word` in the list.
pub(crate) fn number(words: &[&str], word: &str) -> usize {
    match words.iter().position(|w| *w == word) {
        Some(at) => at,
        None => unreachable!("`{word}` has no number"),
    }
}

impl crate::Kernel {
    /// The launches of a call on a device; none if the kernel has no CUDA form, or a device cannot count that far.
    pub fn work(
        &self,
        lens: &[usize],
        scalars: &[Scalar],
        dtypes: &[Option<DType>],
        precision: MatmulPrecision,
    ) -> Option<Work> {
        let form = self.cuda?;
        // The kernels count elements in 31 bits.
        if lens.iter().any(|n| *n > i32::MAX as usize) {
            return None;
        }
        let mut work = Work::default();
        (form.plan)(&Task::new(Call { kernel: self, lens, scalars }, dtypes, precision), &mut work);
        let across = |step: &Step| step.grid[1].max(step.grid[2]) as usize;
        work.steps.iter().all(|step| across(step) <= MOST_ACROSS).then_some(work)
    }
}

/// Blocks that a sum over `n` elements is cut into, as `sums.h` has it.
pub(crate) fn parts(n: usize) -> usize {
    n.div_ceil(1 << 13).clamp(1, 512)
}
