//! The compiler's errors: each names the file or node, what was found, and what to do.

use crate::fit::Fit;
use std::path::PathBuf;

/// Result with the compiler's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be compiled, exported or patched.
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
    /// A node is malformed or its operands do not fit.
    #[error("node `{node}` ({operator}): {reason}")]
    Node {
        /// ONNX name of the node.
        node: String,
        /// Its operator.
        operator: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The model uses what the compiler cannot train; all reasons at once.
    #[error("{}: the model cannot be compiled:\n{}", path.display(), reasons.iter().map(|r| format!("  {r}")).collect::<Vec<_>>().join("\n"))]
    Unsupported {
        /// The model.
        path: PathBuf,
        /// One line for each kind of obstacle.
        reasons: Vec<String>,
    },
    /// An option does not fit the model.
    #[error("{0}")]
    Option(String),
    /// No plan takes as little memory as was asked for.
    #[error("training takes at least {least} bytes of memory; the limit is {limit}")]
    Memory {
        /// Bytes that were asked for.
        limit: u64,
        /// Bytes that are needed.
        least: u64,
        /// Other settings, with less: those that stay within the limit or, if none does, those with the least.
        others: Vec<Fit>,
    },
    /// A text could not be parsed.
    #[error("line {line}: {reason}")]
    Text {
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A graph breaks a rule of the verifier: a defect of the compiler.
    #[error("{rule} broken after `{pass}`: {reason}; this is a defect of sara, please report it with the model")]
    Verify {
        /// The rule, such as `V03`.
        rule: &'static str,
        /// The pass after which it was found.
        pass: String,
        /// What is wrong.
        reason: String,
    },
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] sara_runtime::Error),
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
}
