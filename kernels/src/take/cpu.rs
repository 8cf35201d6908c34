//! Taking entries on a CPU.

use crate::grid::GRAIN;
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    let idx = l.read::<u32>("idx");
    for_float!(l.dtype("x"), T => {
        let x = l.read::<T>("x");
        l.pool.chunks(&mut l.write::<T>("y")[..idx.len()], GRAIN, |i, y| {
            for (y, &at) in y.iter_mut().zip(&idx[i * GRAIN..]) {
                *y = x[at as usize];
            }
        });
    });
}
