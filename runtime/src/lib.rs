//! Plans and what runs them: executors, training state, checkpoints, adapters and the ONNX Runtime oracle.
//!
//! The runtime does not know how a plan came to be.

pub mod interpret;
pub mod plan;
