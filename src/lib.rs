//! `sara`: fine-tunes diffusion models that exist as ONNX, by SaRA (arXiv 2409.06633), without PyTorch.
//!
//! [`compiler`] turns a model into a plan, [`runtime`] runs it, [`models`] knows what a diffusion model is; [`pipeline`] joins them to
//! whole pipelines, and [`command`] is the command line over them.

pub mod command;
pub mod pipeline;

pub use sara_compiler as compiler;
pub use sara_kernels as kernels;
pub use sara_models as models;
pub use sara_runtime as runtime;
