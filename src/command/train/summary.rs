//! What a run was in the end: the memory that was planned and that was taken, and how far the trained entries have moved.

use super::Failure;
use crate::command::report;
use sara_runtime::adapter::Adapter;
use sara_runtime::files::write_atomic;
use sara_runtime::plan::Plan;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Classes of the histogram; the last holds everything beyond.
const CLASSES: usize = 40;
/// Share of the trained entries that the classes before the last are to hold at least.
const SHOWN: f64 = 0.98;

/// What `summary.json` holds.
#[derive(Serialize, Deserialize)]
pub(in crate::command) struct Summary {
    /// Bytes that the plan asks for.
    pub(in crate::command) planned: u64,
    /// Largest resident memory of the process while it trained, in bytes, where the system tells.
    pub(in crate::command) resident: Option<u64>,
    /// Trained entries by `|w|` in percent of their weight's threshold, before training: the least of each class, and how many.
    pub(in crate::command) before: Vec<(u64, u64)>,
    /// The same after it.
    pub(in crate::command) after: Vec<(u64, u64)>,
}

impl Summary {
    /// The summary of a plan that was trained. `resident` is taken while its memory is still held.
    pub(super) fn new(
        planned: u64,
        resident: Option<u64>,
        plan: &Plan,
        values: &[Vec<f32>],
        adapter: &Adapter,
    ) -> Summary {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (sparse, values) in plan.sparse.iter().zip(values) {
            let percent = |w: f32| (f64::from(w.abs()) / sparse.threshold * 100.0) as f32;
            let delta = adapter.deltas.get(&plan.weights[sparse.weight as usize].path);
            let mut moved = delta.into_iter().flat_map(|d| d.index.iter().zip(&d.delta)).peekable();
            for (i, value) in sparse.index.iter().zip(values) {
                let delta = moved.next_if(|(at, _)| *at == i).map_or(0.0, |(_, delta)| *delta);
                before.push(percent(value - delta));
                after.push(percent(*value));
            }
        }
        let width = class_width(&after);
        Summary { planned, resident, before: histogram(&before, width), after: histogram(&after, width) }
    }

    fn path(run: &Path) -> PathBuf {
        run.join("summary.json")
    }

    pub(super) fn write(&self, run: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string(self).map_err(|e| Failure::Plain(e.to_string()))?;
        Ok(write_atomic(&Summary::path(run), |out| out.write_all(text.as_bytes()))?)
    }

    /// That of a run; none if it has not ended.
    pub(in crate::command) fn read(run: &Path) -> Result<Option<Summary>, Failure> {
        let path = Summary::path(run);
        let failed = |e: &dyn std::fmt::Display| Failure::Plain(format!("{}: {e}", path.display()));
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| failed(&e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(&e)),
        }
    }

    /// Memory, as rows of a table.
    pub(in crate::command) fn rows(&self) -> Vec<(String, String)> {
        let resident = self.resident.map(|bytes| ("memory taken at most".to_owned(), report::bytes(bytes)));
        [("memory planned".to_owned(), report::bytes(self.planned))].into_iter().chain(resident).collect()
    }

    /// The histogram up to the last class that holds an entry, as series.
    pub(in crate::command) fn series(&self) -> Vec<(&'static str, Vec<(u64, f64)>)> {
        let used = |all: &[(u64, u64)]| all.iter().rposition(|c| c.1 > 0).map_or(0, |last| last + 1);
        let end = used(&self.before).max(used(&self.after));
        let of = |all: &[(u64, u64)]| all.iter().take(end).map(|(at, n)| (*at, *n as f64)).collect();
        vec![("before", of(&self.before)), ("after", of(&self.after))]
    }
}

/// Width of classes, in percent, so that all but the last hold most values.
fn class_width(values: &[f32]) -> u64 {
    let mut values = values.to_vec();
    let most = (values.len() as f64 * SHOWN) as usize;
    if most >= values.len() {
        return 1;
    }
    let (_, bound, _) = values.select_nth_unstable_by(most, f32::total_cmp);
    ((f64::from(*bound) / (CLASSES - 1) as f64).ceil() as u64).max(1)
}

/// The least value of each class, and how many values it holds.
fn histogram(values: &[f32], width: u64) -> Vec<(u64, u64)> {
    let mut counts = [0; CLASSES];
    values.iter().for_each(|v| counts[((v / width as f32) as usize).min(CLASSES - 1)] += 1);
    (0u64..).map(|i| i.saturating_mul(width)).zip(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_as_wide_as_most_values_need() {
        let values: Vec<f32> = (0..1000u16).map(|i| if i < 990 { f32::from(i) / 10.0 } else { 1e6 }).collect();
        let width = class_width(&values);
        assert_eq!(width, 3);
        let found = histogram(&values, width);
        assert_eq!((found[0], found[1], found[CLASSES - 1]), ((0, 30), (3, 30), (117, 10)));
        assert_eq!(class_width(&[]), 1);
        // Values that no number bounds are in the last class, and those that are none in the first.
        assert_eq!(histogram(&[f32::INFINITY, f32::NAN], 1)[CLASSES - 1].1, 1);
    }

    #[test]
    fn entries_are_counted_by_their_size_before_and_after() {
        let summary = Summary {
            planned: 2048,
            resident: Some(4096),
            before: vec![(0, 3), (5, 1), (10, 0)],
            after: vec![(0, 1), (5, 0), (10, 0)],
        };
        assert_eq!(summary.series()[0].1, [(0, 3.0), (5, 1.0)]);
        assert_eq!(summary.series()[1].1, [(0, 1.0), (5, 0.0)]);
        assert_eq!(summary.rows()[1].1, "4.0 KiB");
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        assert!(Summary::read(folder.path()).is_ok_and(|s| s.is_none()));
    }
}
