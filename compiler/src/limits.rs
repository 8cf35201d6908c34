//! What a model may ask for. Everything beyond is refused with the limit in the message, before memory is taken for it.

/// Bytes of an `.onnx` file, its external data apart: the most that the format's serialisation admits.
pub const FILE_BYTES: u64 = (2 << 30) - 1;
/// Messages and strings in a file. Each takes two bytes or more of the file, and hundreds in memory.
pub const MESSAGES: usize = 1 << 22;
/// Messages that lie in one another, subgraphs among them.
pub const MESSAGE_DEPTH: usize = 64;
/// Functions and subgraphs that are open at the same time.
pub const NESTING: usize = 64;
/// Nodes after functions and loops are unrolled.
pub const NODES: usize = 1 << 20;
/// Rounds of a loop.
pub const ROUNDS: usize = 4096;
/// Bytes of all constants that are not weights.
pub const CONSTANT_BYTES: usize = 1 << 30;
/// Elements of a tensor.
pub const ELEMENTS: usize = 1 << 40;
/// Dimensions of a tensor: the kernels walk no more.
pub const DIMENSIONS: usize = 16;
/// Entries of a table that is computed at import, such as the positions of a resize or a mask.
pub const TABLE: usize = 1 << 24;
/// Comparisons that ordering a constant's elements may take.
pub const COMPARISONS: usize = 1 << 26;
/// Elements of a pooling window.
pub const WINDOW: usize = 256;
