//! Numeric kernels: one folder each, with its declaration in `mod.rs` and its CPU form in `cpu.rs`.
//!
//! A kernel knows buffers and scalars. It does not know graphs, files or ONNX.

mod dtype;
pub mod hyper;
mod launch;
mod pool;

pub use dtype::{DType, Element, Float};
pub use launch::{Arg, Buffer, Call, Kernel, Launch, Mode, Scalar, ScalarKind, Types};
pub use pool::{Pool, SCRATCH_BYTES, Shared, scratch};

/// Every kernel, by name.
pub const KERNELS: &[&Kernel] = &[];

/// The kernel called `name`.
pub fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().copied().find(|k| k.name == name)
}
