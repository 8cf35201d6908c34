//! Accumulation of gradients on a CPU, in chunks.

use crate::Launch;
use crate::rows::BLOCK;
use crate::simd::{Job, axpy, dispatch};

pub(super) fn run(l: &Launch<'_>) {
    let d = l.read::<f32>("d");
    let factor = l.read::<f32>("hyper")[l.int("scale")];
    l.pool.chunks(l.write::<f32>("g"), BLOCK, |i, g| {
        dispatch(Chunk { factor, d: &d[i * BLOCK..][..g.len()], g });
    });
}

struct Chunk<'a> {
    factor: f32,
    d: &'a [f32],
    g: &'a mut [f32],
}

impl Job for Chunk<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        axpy::<f32, FMA>(self.factor, self.d, self.g);
    }
}
