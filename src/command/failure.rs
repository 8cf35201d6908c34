//! How a command fails: a sentence and an exit code.

use sara_runtime::oracle::OracleError;
use std::fmt;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Anything without an exit code of its own.
    Plain(String),
    /// The command was used wrongly.
    Usage(String),
    /// The model cannot be trained.
    Unsupported(String),
    /// A comparison did not hold.
    Verification(String),
    /// Training takes more memory than it may.
    Memory(String),
    /// Interrupted; a checkpoint was saved.
    Interrupted {
        /// The sentence.
        message: String,
        /// 130 for an interrupt, 143 for a request to terminate.
        code: u8,
    },
}

impl Failure {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Plain(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unsupported(_) => 3,
            Failure::Verification(_) => 4,
            Failure::Memory(_) => 5,
            Failure::Interrupted { code, .. } => *code,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Plain(s)
            | Failure::Usage(s)
            | Failure::Unsupported(s)
            | Failure::Verification(s)
            | Failure::Memory(s)
            | Failure::Interrupted { message: s, .. } => f.write_str(s),
        }
    }
}

impl From<sara_compiler::Error> for Failure {
    fn from(error: sara_compiler::Error) -> Failure {
        match error {
            sara_compiler::Error::Unsupported { .. } => Failure::Unsupported(error.to_string()),
            sara_compiler::Error::Memory { limit, least, others } => {
                Failure::Memory(super::report::over_limit(limit, least, &others))
            }
            other => Failure::Plain(other.to_string()),
        }
    }
}

impl From<sara_runtime::Error> for Failure {
    fn from(error: sara_runtime::Error) -> Failure {
        match error {
            sara_runtime::Error::DeviceMemory { .. } | sara_runtime::Error::DevicePieces { .. } => {
                Failure::Memory(error.to_string())
            }
            other => Failure::Plain(other.to_string()),
        }
    }
}

impl From<OracleError> for Failure {
    fn from(error: OracleError) -> Failure {
        Failure::Plain(error.to_string())
    }
}

impl From<sara_runtime::patch::PatchError> for Failure {
    fn from(error: sara_runtime::patch::PatchError) -> Failure {
        Failure::Plain(error.to_string())
    }
}

impl From<sara_models::Error> for Failure {
    fn from(error: sara_models::Error) -> Failure {
        Failure::Plain(error.to_string())
    }
}

impl From<crate::pipeline::Error> for Failure {
    fn from(error: crate::pipeline::Error) -> Failure {
        match error {
            crate::pipeline::Error::Compiler(error) => error.into(),
            crate::pipeline::Error::Space { folder, needed, free } => Failure::Plain(format!(
                "{}: up to {} will be written, and the disk has {} free; free some, or choose another folder",
                folder.display(),
                super::report::bytes(needed),
                super::report::bytes(free)
            )),
            other => Failure::Plain(other.to_string()),
        }
    }
}
