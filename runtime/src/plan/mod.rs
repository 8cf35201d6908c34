//! The plan: everything a training run executes, with every byte placed.
//!
//! A plan holds programs (lists of kernel launches) over one table of weights, one set of sparse state and one arena. It knows
//! files and offsets, but not how a program came to be.

mod file;
mod part;
mod print;
#[cfg(test)]
mod tests;
mod verify;

pub use part::Part;

use crate::source::Source;
use crate::tensor::Tensors;
use sara_kernels::{DType, Kernel, Scalar};
use std::path::{Path, PathBuf};

/// Index of a [`Buffer`] in [`Plan::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A compiled model.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name of the graph it was compiled from.
    pub name: String,
    /// The ONNX file it was compiled from.
    pub model: ModelFile,
    /// How the trained entries were chosen.
    pub selection: Selection,
    /// Bytes of the arena that all programs share: the largest [`Program::arena_bytes`].
    pub arena_bytes: u64,
    /// Every buffer that a launch may name.
    pub buffers: Vec<Buffer>,
    /// Initialisers that stay as they lie in the model's files.
    pub weights: Vec<Weight>,
    /// Weights of which some entries train.
    pub sparse: Vec<Sparse>,
    /// Whether the moments of those entries are codes of [`sara_kernels::sparse_adamw_8bit`].
    pub use_8bit_adam: bool,
    /// Data of [`Place::Constant`] buffers, each aligned to [`ALIGN`] bytes.
    pub constants: Vec<u8>,
    /// The programs, by name unique.
    pub programs: Vec<Program>,
}

/// Alignment of buffers in the arena and of constants in bytes.
pub const ALIGN: u64 = 64;

/// Identity of a model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Absolute path of the `.onnx` file when the plan was made.
    pub path: PathBuf,
    /// Folder within which external data may lie, if the user declared one.
    pub root: Option<PathBuf>,
    /// Bytes of that file.
    pub bytes: u64,
    /// SHA-256 of that file, in hexadecimal. External data is not included: [`Sparse::base_sha256`] is for what trains.
    pub sha256: String,
}

impl ModelFile {
    /// Where the model lies now: at `path`, or where it was when the plan was made.
    pub fn source(&self, path: Option<&Path>) -> Source {
        Source { model: path.unwrap_or(&self.path).to_owned(), root: self.root.clone() }
    }
}

/// How the trained entries were chosen, for reports and the learning-rate rule.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Selection {
    /// Entries with `|w|` below this train. For a density per layer: the largest threshold of any layer.
    pub threshold: f64,
    /// Entries that train.
    pub trainable: u64,
    /// Entries of all eligible weights.
    pub eligible: u64,
    /// Parameters of the model: elements of all floating-point weights.
    pub total: u64,
}

/// Memory that launches read and write.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Name of the value it holds, without `%`.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Elements.
    pub len: u64,
    /// Where it lies.
    pub place: Place,
}

/// Where a buffer lies. Indices of weights and sparse weights point into the plan's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the arena, at this byte offset.
    Arena(u64),
    /// A weight in memory, in the type that it is computed in, or a real one in `bf16` or `f16`.
    Weight(u32),
    /// In [`Plan::constants`], at this byte offset.
    Constant(u64),
    /// A weight's bytes as they lie in its file, which is mapped; `u8`, at any alignment.
    File(u32),
    /// Positions of a sparse weight's trained entries: ascending flat indices, `u32`.
    Index(u32),
    /// [`Place::Index`], and behind them the positions of the entries that train no more, in any order.
    AllIndex(u32),
    /// Values of a sparse weight's trained entries, `f32`.
    Param(u32),
    /// [`Place::Param`], and behind them the values of the entries that train no more.
    AllParam(u32),
    /// Accumulated gradient of a sparse weight's trained entries, `f32`.
    Gradient(u32),
    /// First Adam moment of a sparse weight's trained entries, `f32`, or `u8` if they are codes.
    Moment1(u32),
    /// Second Adam moment of a sparse weight's trained entries, as the first.
    Moment2(u32),
    /// Largest magnitude of each block of first moments that are codes, `f32`.
    Absmax1(u32),
    /// Largest magnitude of each block of second moments that are codes, `f32`.
    Absmax2(u32),
    /// The step's hyper-parameters, `f32`, laid out as [`sara_kernels::hyper`] says.
    Hyper,
}

impl Place {
    /// Where an index or values lie together with what trains no more.
    pub fn whole(self) -> Option<Place> {
        match self {
            Place::Index(s) => Some(Place::AllIndex(s)),
            Place::Param(s) => Some(Place::AllParam(s)),
            _ => None,
        }
    }

    /// The sparse weight of which this is a part.
    pub fn sparse(self) -> Option<u32> {
        match self {
            Place::Index(s)
            | Place::AllIndex(s)
            | Place::Param(s)
            | Place::AllParam(s)
            | Place::Gradient(s)
            | Place::Moment1(s)
            | Place::Moment2(s)
            | Place::Absmax1(s)
            | Place::Absmax2(s) => Some(s),
            Place::Arena(_) | Place::Weight(_) | Place::Constant(_) | Place::File(_) | Place::Hyper => None,
        }
    }

    /// Whether these are positions of entries.
    pub fn is_positions(self) -> bool {
        matches!(self, Place::Index(_) | Place::AllIndex(_))
    }
}

/// Element type of an initialiser in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    /// As the buffer that holds it.
    Plain(DType),
    /// IEEE half precision, widened to `f32` when loaded.
    F16,
    /// bfloat16, widened to `f32` when loaded.
    Bf16,
}

impl Stored {
    /// Bytes of one stored element.
    pub const fn size(self) -> usize {
        match self {
            Stored::Plain(d) => d.size(),
            Stored::F16 | Stored::Bf16 => 2,
        }
    }

    /// Its name in a launch of `fetch`: `f32`, `f16`, `bf16`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Stored::Plain(d) => d.name(),
            Stored::F16 => "f16",
            Stored::Bf16 => "bf16",
        }
    }

    /// Type of the buffer that holds it.
    pub const fn loaded(self) -> DType {
        match self {
            Stored::Plain(d) => d,
            Stored::F16 | Stored::Bf16 => DType::F32,
        }
    }

    /// Stored elements that are loaded in single precision: where they lie if they are as they are loaded, else in `room`.
    pub fn values<'a>(self, bytes: &'a [u8], room: &'a mut Vec<f32>) -> &'a [f32] {
        let halves = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        room.clear();
        match self {
            Stored::F16 => room.extend(halves.map(|b| half::f16::from_bits(b).to_f32())),
            Stored::Bf16 => room.extend(halves.map(|b| half::bf16::from_bits(b).to_f32())),
            Stored::Plain(_) => match bytemuck::try_cast_slice(bytes) {
                Ok(values) if cfg!(target_endian = "little") => return values,
                _ => room.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            },
        }
        room
    }
}

/// An initialiser of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// ONNX name (of the initialiser, or of the output of its Constant node).
    pub name: String,
    /// Name of the first node that uses it: stable across exports, unlike `name`.
    pub path: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// Element type in the file.
    pub stored: Stored,
    /// File that holds the bytes: empty for the `.onnx` file itself, else the external file relative to its folder.
    pub file: String,
    /// Offset of the first byte in that file.
    pub offset: u64,
}

impl Weight {
    /// Elements.
    pub fn len(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in the file.
    pub fn stored_bytes(&self) -> u64 {
        self.len() * self.stored.size() as u64
    }
}

/// A weight of which some entries train.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    /// Index into [`Plan::weights`].
    pub weight: u32,
    /// Flat positions of the trained entries, strictly ascending.
    pub index: Vec<u32>,
    /// Entries of this weight with `|w|` below this were chosen; re-selection keeps those that still are.
    pub threshold: f64,
    /// SHA-256 of the weight's bytes as they lay in the file when the entries were chosen, in hexadecimal.
    pub base_sha256: String,
    /// Program that adds the low-rank subgradient of this weight to its gradient, if it is eligible.
    pub low_rank: Option<String>,
}

/// A tensor that enters or leaves a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// ONNX name, or `target`, `loss`.
    pub name: String,
    /// The buffer.
    pub buffer: BufferId,
    /// Bound shape.
    pub shape: Vec<u64>,
}

/// A list of launches.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// `train`, `forward`, `update`, `gradients`; `train:NAME` and `forward:NAME` for other shapes; `lowrank:NAME`.
    pub name: String,
    /// What must be set before it runs.
    pub inputs: Vec<Port>,
    /// What can be read after it ran.
    pub outputs: Vec<Port>,
    /// The launches, in order.
    pub steps: Vec<Step>,
    /// Bytes of the arena that this program uses.
    pub arena_bytes: u64,
    /// Step at which the most bytes are live, and those bytes: the lower bound of any placement.
    pub peak: Peak,
}

impl Program {
    /// The name up to its colon.
    pub fn kind(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    /// Whether the inputs are those of the program, by name and shape.
    pub fn takes(&self, inputs: &Tensors) -> bool {
        let fits = |port: &Port| {
            let shape = inputs.get(&port.name).map(|t| t.shape().iter().map(|d| *d as u64));
            shape.is_some_and(|shape| shape.eq(port.shape.iter().copied()))
        };
        inputs.len() == self.inputs.len() && self.inputs.iter().all(fits)
    }
}

/// The moment at which a program needs most memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Peak {
    /// Index into [`Program::steps`].
    pub step: u32,
    /// Bytes live in the arena during that step.
    pub live_bytes: u64,
}

/// One launch of a kernel.
#[derive(Clone, Debug)]
pub struct Step {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// One buffer for each declared argument; absent where optional.
    pub args: Vec<Option<BufferId>>,
    /// One value for each declared scalar.
    pub scalars: Vec<Scalar>,
    /// ONNX node it computes, for errors and profiles; empty if there is none.
    pub origin: String,
    /// What it is for; it changes nothing in how it runs.
    pub part: Part,
}

impl PartialEq for Step {
    fn eq(&self, other: &Step) -> bool {
        self.kernel.name == other.kernel.name
            && self.args == other.args
            && self.scalars == other.scalars
            && self.origin == other.origin
            && self.part == other.part
    }
}

impl Plan {
    /// Element type of the moments.
    pub fn moment(&self) -> DType {
        if self.use_8bit_adam { DType::U8 } else { DType::F32 }
    }

    /// The buffer `id`.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }

    /// The program called `name`.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|p| p.name == name)
    }
}
