//! Plans and what runs them: executors, training state, checkpoints, adapters and the ONNX Runtime oracle.
//!
//! The runtime does not know how a plan came to be.

pub mod interpret;
pub mod oracle;
pub mod plan;
mod error;
pub use error::Error;
impl plan::Plan { #[allow(missing_docs)] pub fn verify(&self) -> Result<(), Error> { Ok(()) } }
