//! Convolution on a CPU: the sum over channels and taps at every output element.

use super::correlate::{Correlation, correlate};
use super::geometry::Geometry;
use crate::simd::Real;
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("y"), T => typed::<T>(l))
}

fn typed<T: Real>(l: &Launch<'_>) {
    let g = Geometry::of(l);
    let c = Correlation {
        n: g.n,
        groups: g.groups,
        sources: g.ci_group(),
        results: g.co_group(),
        source_stride: g.taps(),
        result_stride: g.ci_group() * g.taps(),
        axes: g.forward(),
    };
    correlate(l.pool, &c, l.read::<T>("x"), l.read("w"), l.read_if("bias"), &l.shared("y"));
}
