//! Numeric kernels: one folder each, with its declaration in `mod.rs` and its CPU form in `cpu.rs`.
//!
//! A kernel knows buffers and scalars. It does not know graphs, files or ONNX.

pub mod accumulate;
pub mod attention;
pub mod attention_grad;
pub mod binary;
pub mod binary_in_place;
pub mod cast;
pub mod clip_norm;
pub mod conv;
pub mod conv_grad_input;
pub mod conv_grad_weight;
pub mod copy;
mod crew;
pub mod cuda;
mod dtype;
pub mod fetch;
pub mod fill;
mod function;
pub mod fuse;
pub mod gather;
pub mod gather_grad;
pub mod gemm;
pub mod glu;
pub mod glu_grad;
mod grid;
pub mod group_norm;
pub mod group_norm_grad;
pub mod group_norm_grad_affine;
#[cfg(test)]
mod harness;
pub mod hyper;
mod launch;
pub mod layer_norm;
pub mod layer_norm_grad;
pub mod layer_norm_grad_affine;
pub mod masked_conv_grad;
pub mod masked_matmul_grad;
mod math;
pub mod mse_loss;
pub mod mse_loss_grad;
mod norm;
pub mod normalize;
mod pairs;
mod pool;
mod product;
mod rate;
pub mod reduce;
pub mod resample;
pub mod resample_grad;
pub mod rms_norm;
pub mod rms_norm_grad;
pub mod rms_norm_grad_scale;
mod rounded;
mod rows;
mod sampled;
pub mod scatter;
pub mod select;
mod simd;
pub mod softmax;
pub mod softmax_grad;
pub mod sparse_adamw;
pub mod sparse_adamw_8bit;
pub mod sum_squares;
pub mod take;
mod tile;
mod types;
pub mod unary;
pub mod unary_grad;

pub use dtype::{DType, Element, Float, Stored};
pub use launch::{Arg, Buffer, Call, Kernel, Launch, Mode, Scalar, ScalarKind};
pub(crate) use pool::scratch_parts;
pub use pool::{Pool, SCRATCH_BYTES, Shared, scratch};
pub use rate::dense_rate;
pub use tile::multiplies_matrices;
pub use types::{TypedCall, Types};

/// Every kernel, by name.
pub const KERNELS: &[&Kernel] = &[
    &accumulate::KERNEL,
    &attention::KERNEL,
    &attention_grad::KERNEL,
    &binary::KERNEL,
    &binary_in_place::KERNEL,
    &cast::KERNEL,
    &clip_norm::KERNEL,
    &conv::KERNEL,
    &conv_grad_input::KERNEL,
    &conv_grad_weight::KERNEL,
    &copy::KERNEL,
    &fetch::KERNEL,
    &fill::KERNEL,
    &gather::KERNEL,
    &gather_grad::KERNEL,
    &gemm::KERNEL,
    &glu::KERNEL,
    &glu_grad::KERNEL,
    &group_norm::KERNEL,
    &group_norm_grad::KERNEL,
    &group_norm_grad_affine::KERNEL,
    &layer_norm::KERNEL,
    &layer_norm_grad::KERNEL,
    &layer_norm_grad_affine::KERNEL,
    &masked_conv_grad::KERNEL,
    &masked_matmul_grad::KERNEL,
    &mse_loss::KERNEL,
    &mse_loss_grad::KERNEL,
    &normalize::KERNEL,
    &reduce::KERNEL,
    &resample::KERNEL,
    &resample_grad::KERNEL,
    &rms_norm::KERNEL,
    &rms_norm_grad::KERNEL,
    &rms_norm_grad_scale::KERNEL,
    &scatter::KERNEL,
    &select::KERNEL,
    &softmax::KERNEL,
    &softmax_grad::KERNEL,
    &sparse_adamw::KERNEL,
    &sparse_adamw_8bit::KERNEL,
    &sum_squares::KERNEL,
    &take::KERNEL,
    &unary::KERNEL,
    &unary_grad::KERNEL,
];

/// The kernel called `name`.
pub fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().copied().find(|k| k.name == name)
}
