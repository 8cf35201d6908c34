//! Plans and what runs them: executors, training state, checkpoints, adapters and the ONNX Runtime oracle.
//!
//! The runtime does not know how a plan came to be.

pub mod adapter;
mod block;
pub mod checkpoint;
pub mod device;
pub mod ema;
mod error;
pub mod executor;
pub mod files;
pub mod interpret;
mod load;
pub mod map;
pub mod metrics;
pub mod oracle;
pub mod patch;
pub mod plan;
pub mod rng;
pub mod schedule;
pub mod source;
pub mod tensor;
pub mod train;
pub mod wheel;

pub use error::{Error, Result};
