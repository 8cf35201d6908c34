//! What can go wrong between the program and ONNX Runtime.

use crate::wheel::WheelError;
use std::path::PathBuf;

use super::OracleType;

/// The ways to get a library, for messages that report that there is none.
pub(crate) const THREE_WAYS: &str = "three ways to get it: set ORT_DYLIB_PATH to a libonnxruntime file; \
     run `python3 -m pip install onnxruntime` in the active Python environment; \
     or let sara fetch it into its cache, for which it needs python3, pip and a network";

/// A failure of the ONNX Runtime oracle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OracleError {
    /// No library was found in any of the places that are searched.
    #[error("no ONNX Runtime library was found{notes}; {THREE_WAYS}")]
    NotFound {
        /// What the search has to say about places that looked promising, each line after a semicolon.
        notes: String,
    },
    /// Libraries were found, and none of them could be used.
    #[error("no ONNX Runtime library could be loaded: {tried}; {THREE_WAYS}")]
    NotLoaded {
        /// Every file that was tried and why it was refused.
        tried: String,
    },
    /// `ORT_DYLIB_PATH` is set to something that is not a usable library.
    #[error("ORT_DYLIB_PATH is `{path}`, {reason}; correct it, or unset it to search the other places")]
    BadVariable {
        /// The value of the variable.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Arrays cross the boundary as little-endian bytes, which ONNX Runtime reads in the machine's own order.
    #[error("the ONNX Runtime oracle needs a little-endian machine")]
    BigEndian,
    /// ONNX Runtime refused a model.
    #[error("ONNX Runtime cannot open {model}: {reason}")]
    Model {
        /// The file, or a description of the bytes.
        model: String,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// A setting of a session was refused.
    #[error("ONNX Runtime refused the session option {option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// The folder of the external data is missing or cannot be named to ONNX Runtime.
    #[error("the folder of external data `{folder}` {reason}")]
    ExternalFolder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An array's bytes do not match its type and shape.
    #[error("array {name:?} has {actual} bytes, but {dtype} of shape {shape:?} takes {expected}")]
    Length {
        /// Name of the input.
        name: String,
        /// Element type of the array.
        dtype: OracleType,
        /// Shape of the array.
        shape: Vec<usize>,
        /// Bytes that type and shape call for; a text, for a shape whose size does not fit.
        expected: String,
        /// Bytes that are there.
        actual: usize,
    },
    /// The model has no input of that name.
    #[error("the model has no input {name:?}; its inputs are {known:?}")]
    UnknownInput {
        /// The name that was given.
        name: String,
        /// The model's inputs.
        known: Vec<String>,
    },
    /// The model has no output of that name.
    #[error("the model has no output {name:?}; its outputs are {known}")]
    UnknownOutput {
        /// The name that was asked for.
        name: String,
        /// The model's outputs, the first of them if there are many.
        known: String,
    },
    /// An input was given twice.
    #[error("input {name:?} is given more than once")]
    DuplicateInput {
        /// The name that was given.
        name: String,
    },
    /// An input without a default was not given.
    #[error("input {name:?} of the model is not given")]
    MissingInput {
        /// The model's input.
        name: String,
    },
    /// An input's element type is not the model's.
    #[error("input {name:?} is {actual}, but the model takes {expected}")]
    InputType {
        /// Name of the input.
        name: String,
        /// The model's type.
        expected: String,
        /// The array's type.
        actual: OracleType,
    },
    /// An input's shape does not fit the model's.
    #[error("input {name:?} has shape {actual:?}, but the model takes {expected}")]
    InputShape {
        /// Name of the input.
        name: String,
        /// The model's shape, with `?` for a dimension that may vary.
        expected: String,
        /// The array's shape.
        actual: Vec<usize>,
    },
    /// An output is not a dense tensor of one of the supported element types.
    #[error("output {name:?} is {actual}, which has no array form here")]
    OutputType {
        /// Name of the output.
        name: String,
        /// What it is.
        actual: String,
    },
    /// ONNX Runtime failed while it was running a model.
    #[error("ONNX Runtime failed to run the model: {0}")]
    Run(String),
    /// Bytes that should be an ONNX model are not.
    #[error("not an ONNX model: {0}")]
    NotAModel(String),
    /// The cache could not be filled.
    #[error("{0}; {THREE_WAYS}")]
    Fetch(#[from] WheelError),
}
