//! What a run will write, at most.

use super::Saving;
use crate::pipeline::shapes::Size;
use crate::pipeline::space::on_disk;

/// Bytes of a checkpoint for one trained entry: position, value and two moments.
const ENTRY: u64 = 16;
/// The same for the moving average.
const AVERAGE: u64 = 4;
/// Position and difference in the adapter.
const ADAPTER: u64 = 8;
/// A step in the log and in the event file.
const STEP: u64 = 1024;
/// What does not grow: settings, report, headers.
const FIXED: u64 = 1 << 20;

/// A run that is about to begin or to go on.
pub(super) struct Run {
    /// Entries that train.
    pub(super) entries: u64,
    /// Whether a moving average of them is saved.
    pub(super) average: bool,
    /// Steps that are left.
    pub(super) steps: u64,
    /// When checkpoints are saved, and how many are kept.
    pub(super) saving: Saving,
    /// Checkpoints that are there.
    pub(super) there: u64,
    /// Pictures that are drawn each time, how many steps lie between, and their size.
    pub(super) pictures: u64,
    pub(super) every: u64,
    pub(super) size: Size,
}

impl Run {
    /// Bytes that it adds to its folder. A checkpoint is complete before an old one goes.
    pub(super) fn bytes(&self) -> u64 {
        let checkpoint = self.entries.saturating_mul(ENTRY + if self.average { AVERAGE } else { 0 });
        let saves = self.steps.checked_div(self.saving.every).unwrap_or(0).saturating_add(1);
        let checkpoints = saves.min((self.saving.keep as u64).saturating_add(1).saturating_sub(self.there));
        let [height, width] = self.size.map(|side| side as u64);
        // In a file, in the events and, in letters, in the report.
        let picture = on_disk(3 * height * width + 1024).saturating_mul(4);
        // Also before the first step and after the last.
        let times = self.steps.checked_div(self.every).map_or(0, |times| times.saturating_add(2));
        [
            on_disk(checkpoint).saturating_mul(checkpoints),
            on_disk(self.entries.saturating_mul(ADAPTER)),
            self.steps.saturating_mul(STEP),
            picture.saturating_mul(self.pictures).saturating_mul(times),
        ]
        .into_iter()
        .fold(FIXED, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let saving = Saving { every: 100, keep: 2 };
        let (entries, steps, size) = (1 << 20, 1000, [64, 64]);
        Run { entries, average: false, steps, saving, there: 0, pictures: 0, every: 250, size }
    }

    #[test]
    fn checkpoints_are_those_that_are_kept_and_one_that_is_made() {
        let fixed = FIXED + 1000 * STEP + (8 << 20);
        assert_eq!(run().bytes(), fixed + 3 * (16 << 20));
        assert_eq!(Run { average: true, ..run() }.bytes(), fixed + 3 * (20 << 20));
        assert_eq!(Run { there: 2, ..run() }.bytes(), fixed + (16 << 20));
        assert_eq!(Run { there: 9, ..run() }.bytes(), fixed);
        let rarely = |every| Run { saving: Saving { every, keep: 2 }, ..run() }.bytes();
        assert_eq!((rarely(0), rarely(600)), (fixed + (16 << 20), fixed + 2 * (16 << 20)));
    }

    #[test]
    fn pictures_count_at_each_validation_and_at_both_ends() {
        let more = Run { pictures: 2, ..run() }.bytes() - run().bytes();
        assert_eq!(more, 6 * 2 * 4 * on_disk(3 * 64 * 64 + 1024));
        assert_eq!(Run { pictures: 2, every: 0, ..run() }.bytes(), run().bytes());
        assert_eq!(Run { pictures: u64::MAX, ..run() }.bytes(), u64::MAX);
    }
}
