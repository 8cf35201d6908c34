//! The log of a run: one JSON object a line, flushed as it is written.

use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::train::Metrics;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes `metrics.jsonl`.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log of a run that continues after `step` steps; lines of later steps are dropped.
    pub fn open(path: &Path, step: u64) -> Result<Log> {
        let kept: String = match std::fs::read_to_string(path) {
            Ok(text) if step > 0 => text
                .lines()
                .filter(|l| serde_json::from_str::<Metrics>(l).is_ok_and(|m| m.step <= step))
                .map(|l| format!("{l}\n"))
                .collect(),
            _ => String::new(),
        };
        write_atomic(path, |out| out.write_all(kept.as_bytes()))?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))?;
        Ok(Log { path: path.to_owned(), file })
    }

    /// Appends a step.
    pub fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let mut line = serde_json::to_string(metrics).map_err(|e| Error::file(&self.path, e.to_string()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e))
    }
}
