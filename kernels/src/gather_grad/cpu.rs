//! The gradient of gathering on a CPU. Each task owns whole planes `[axis, inner]`, so the order of the sums is fixed.

use crate::gather::row;
use crate::grid::GRAIN;
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    let (axis, inner) = (l.int("axis"), l.int("inner"));
    let index = l.read::<i64>("index");
    let plane = axis * inner;
    if plane == 0 {
        return;
    }
    let planes = (GRAIN / plane).max(1);
    for_float!(l.dtype("dy"), T => {
        let dy = l.read::<T>("dy");
        let dx = l.write::<T>("dx");
        l.pool.chunks(dx, GRAIN, |_, dx| dx.fill(0.0));
        l.pool.chunks(dx, planes * plane, |task, dx| {
            for (p, dx) in dx.chunks_exact_mut(plane).enumerate() {
                let outer = task * planes + p;
                for (j, &to) in index.iter().enumerate() {
                    let Some(to) = row(to, axis) else { continue };
                    let dy = &dy[(outer * index.len() + j) * inner..][..inner];
                    for (dx, &dy) in dx[to * inner..][..inner].iter_mut().zip(dy) {
                        *dx += dy;
                    }
                }
            }
        });
    });
}
