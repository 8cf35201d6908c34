//! Convolution on a CPU: the sum over channels and taps at every output element.

use super::correlate::{Correlation, correlate};
use super::geometry::Geometry;
use super::winograd::{self, Winograd};
use crate::simd::Real;
use crate::{DType, Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("y"), T => typed::<T>(l))
}

fn typed<T: Real>(l: &Launch<'_>) {
    let g = Geometry::of(l);
    if let Some(w) = Winograd::of(&g, false).filter(|_| l.has("work") && l.dtype("y") == DType::F32) {
        let (x, bias) = (l.read("x"), l.read_if("bias"));
        return winograd::run(l.pool, &w, x, l.read("w"), bias, &l.shared("y"), &l.shared("work"));
    }
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
