//! The compiler: an ONNX diffusion model goes in, a plan that fine-tunes it by SaRA comes out.
//!
//! It knows ONNX, graphs and passes. It knows no devices and no training data.

pub mod autodiff;
pub mod compile;
mod error;
pub mod evaluate;
pub mod fit;
pub mod import;
pub mod ir;
pub mod limits;
pub mod loss;
pub mod lower;
pub mod ops;
pub mod passes;
pub mod place;
pub mod select;

pub use error::{Error, Result};
