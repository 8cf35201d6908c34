//! Plans and what runs them: executors, training state, checkpoints, adapters and the ONNX Runtime oracle.
//!
//! The runtime does not know how a plan came to be.

mod error;
pub mod executor;
pub mod files;
pub mod interpret;
pub mod patch;
pub mod plan;
pub mod tensor;

pub use error::{Error, Result};
