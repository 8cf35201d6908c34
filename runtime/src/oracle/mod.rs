//! ONNX Runtime as the reference that compiled plans are compared with.
//!
//! The library is loaded at run time and is optional: compiling, training and exporting never need it. [`find`] says
//! where a library is, [`fetch`] fills the project's cache with a pinned one, [`Oracle`] loads it and opens sessions, and
//! [`expose`] turns inner values of a model into outputs so that they can be compared one by one.

mod array;
mod convert;
mod error;
pub mod expose;
pub mod fetch;
pub mod find;
mod session;

pub use array::{Array, OracleType};
pub use error::OracleError;
pub use session::{Optimization, Oracle, Port, Session, SessionOptions};

#[cfg(test)]
mod tests;
