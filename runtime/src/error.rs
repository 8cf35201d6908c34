//! stub
#![allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum Error { #[error("{0}")] S(String) }
