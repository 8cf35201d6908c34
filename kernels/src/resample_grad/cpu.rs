//! The gradient of resampling on a CPU. Each task owns whole planes `[n_in, inner]`, so the order of the sums is fixed.

use crate::grid::GRAIN;
use crate::resample::cpu::Table;
use crate::simd::{Job, Real, axpy, dispatch};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    let table = Table::of(l);
    let (from, to) = (table.n_out * table.inner, table.n_in * table.inner);
    if from == 0 || to == 0 {
        return;
    }
    let planes = (GRAIN / from.max(to)).max(1);
    for_float!(l.dtype("dy"), T => {
        let dy = l.read::<T>("dy");
        l.pool.chunks(l.write::<T>("dx"), planes * to, |i, dx| {
            let dy = &dy[i * planes * from..][..dx.len() / to * from];
            dispatch(Part { table, dy, dx });
        });
    });
}

/// Some planes.
struct Part<'a, T> {
    table: Table<'a>,
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Job for Part<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Table { n_in, n_out, inner, .. } = self.table;
        self.dx.fill(T::of(0.0));
        let planes = self.dx.chunks_exact_mut(n_in * inner).zip(self.dy.chunks_exact(n_out * inner));
        for (dx, dy) in planes {
            for (j, dy) in dy.chunks_exact(inner).enumerate() {
                for (to, weight) in self.table.taps(j) {
                    axpy::<T, FMA>(T::of(weight), dy, &mut dx[to * inner..][..inner]);
                }
            }
        }
    }
}
