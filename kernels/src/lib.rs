//! Numeric kernels: one folder each, with its declaration in `mod.rs` and its CPU form in `cpu.rs`.
//!
//! A kernel knows buffers and scalars. It does not know graphs, files or ONNX.

pub mod attention;
pub mod attention_grad;
pub mod cast;
pub mod conv;
pub mod conv_grad_input;
pub mod conv_grad_weight;
pub mod copy;
mod dtype;
pub mod fill;
mod function;
pub mod gemm;
mod grid;
#[cfg(test)]
mod harness;
pub mod hyper;
mod launch;
pub mod masked_conv_grad;
pub mod masked_matmul_grad;
mod math;
mod pool;
mod product;
mod sampled;
mod simd;
pub mod unary;
pub mod unary_grad;

pub use dtype::{DType, Element, Float};
pub use launch::{Arg, Buffer, Call, Kernel, Launch, Mode, Scalar, ScalarKind, Types};
pub use pool::{Pool, SCRATCH_BYTES, Shared, scratch};

/// Every kernel, by name.
pub const KERNELS: &[&Kernel] = &[
    &quick::BINARY,&quick::SELECT,&quick::REDUCE,&quick::SOFTMAX,&quick::SOFTMAXG,&quick::GN,&quick::GNG,&quick::GNA,&quick::LN,&quick::LNG,&quick::LNA,&quick::RMS,&quick::GATHER,&quick::GATHERG,&quick::TAKE,&quick::SCATTER,&quick::RESAMPLE,&quick::RESAMPLEG,&quick::MSE,&quick::MSEG,&quick::ACC,&quick::SUMSQ,&quick::CLIP,&quick::ADAMW,&quick::NORMALIZE,
    &attention::KERNEL,
    &attention_grad::KERNEL,
    &cast::KERNEL,
    &conv::KERNEL,
    &conv_grad_input::KERNEL,
    &conv_grad_weight::KERNEL,
    &copy::KERNEL,
    &fill::KERNEL,
    &gemm::KERNEL,
    &masked_conv_grad::KERNEL,
    &masked_matmul_grad::KERNEL,
    &unary::KERNEL,
    &unary_grad::KERNEL,
];

/// The kernel called `name`.
pub fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().copied().find(|k| k.name == name)
}

mod quick;
