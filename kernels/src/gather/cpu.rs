//! Gathering on a CPU.

use super::row;
use crate::grid::{GRAIN, rows};
use crate::{Launch, for_element};

pub(super) fn run(l: &Launch<'_>) {
    let (axis, inner) = (l.int("axis"), l.int("inner"));
    let index = l.read::<i64>("index");
    let absent = f64::NAN;
    for_element!(l.dtype("x"), T => {
        let x = l.read::<T>("x");
        l.pool.chunks(l.write::<T>("y"), GRAIN, |i, y| {
            for (line, column, at, n) in rows(i * GRAIN, y.len(), inner) {
                let (outer, j) = (line / index.len(), line % index.len());
                let y = &mut y[at..][..n];
                match row(index[j], axis) {
                    Some(from) => y.copy_from_slice(&x[(outer * axis + from) * inner + column..][..n]),
                    None => y.fill(absent as T),
                }
            }
        });
    });
}
