//! Writing entries on a CPU.

use crate::grid::{GRAIN, tasks};
use crate::{Launch, Shared, for_float};

#[expect(unsafe_code, reason = "tasks write disjoint ranges")]
pub(super) fn run(l: &Launch<'_>) {
    let idx = l.read::<u32>("idx");
    for_float!(l.dtype("p"), T => {
        let p = &l.read::<T>("p")[..idx.len()];
        let y: Shared<'_, T> = l.shared("y");
        tasks(l.pool, idx.len().div_ceil(GRAIN), |task| {
            let idx = &idx[task * GRAIN..idx.len().min((task + 1) * GRAIN)];
            let (first, last) = (idx[0] as usize, idx[idx.len() - 1] as usize);
            // SAFETY: positions ascend, so the ranges of two tasks do not meet.
            let y = unsafe { y.range(first, last + 1 - first) };
            for (&at, &p) in idx.iter().zip(&p[task * GRAIN..]) {
                y[at as usize - first] = p;
            }
        });
    });
}
