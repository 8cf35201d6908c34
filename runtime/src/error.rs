//! The runtime's errors: each names the file, tensor or field, what was found, and what to do.

use std::path::PathBuf;

/// Result with the runtime's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a plan could not be loaded, run or saved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A tensor does not fit where it is to go.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An option does not fit.
    #[error("{0}")]
    Option(String),
    /// A number that is not finite.
    #[error(
        "step {step}: {what} is not finite; first in `{tensor}`{origin}; nothing was saved from this step. Lower the learning rate, or check the data and the model for NaN and inf"
    )]
    NotFinite {
        /// The training step.
        step: u64,
        /// The loss or the gradient norm.
        what: &'static str,
        /// The first tensor that holds such a number.
        tensor: String,
        /// The ONNX node that made it, and an infinity before it, in words.
        origin: String,
    },
    /// A device has too little memory.
    #[error(
        "{device} has {:.1} MiB free of {:.1}, and {:.1} MiB are needed; compile a plan on this machine with --device cuda, which keeps it within what is free or says what would fit; otherwise take a smaller batch, or --device cpu",
        mib(free),
        mib(total),
        mib(needed)
    )]
    DeviceMemory {
        /// The device.
        device: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that there are.
        total: u64,
    },
    /// A device's memory cannot be had, although enough of it is free.
    #[error(
        "{device} has {:.1} MiB free and cannot give {:.1} MiB in one piece; end what else uses it, or use --device cpu",
        mib(free),
        mib(needed)
    )]
    DevicePieces {
        /// The device.
        device: String,
        /// Bytes of the piece.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A device, or a library that it needs, is not as it should be.
    #[error("{0}")]
    Device(String),
    /// A plan breaks a rule of its verifier.
    #[error("the plan breaks {rule}: {reason}; compile it again")]
    Verify {
        /// The rule, such as `P03`.
        rule: &'static str,
        /// What is wrong.
        reason: String,
    },
}

fn mib(bytes: &u64) -> f64 {
    *bytes as f64 / 1_048_576.0
}

impl Error {
    /// An error about a file.
    pub fn file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Error {
        Error::File { path: path.into(), reason: reason.into() }
    }

    /// An error of the system about a file.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Error {
        Error::Io { path: path.into(), source }
    }

    /// An error about a tensor.
    pub fn tensor(name: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Tensor { name: name.into(), reason: reason.into() }
    }
}
