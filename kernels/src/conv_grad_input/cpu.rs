//! The input gradient on a CPU: for each class of input elements with the same remainder modulo the strides, a sum over
//! output channels and the taps that reach this class.

use crate::conv::correlate::{Correlation, correlate};
use crate::conv::geometry::Geometry;
use crate::conv::winograd::{self, Winograd};
use crate::simd::Real;
use crate::{DType, Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dx"), T => typed::<T>(l))
}

fn typed<T: Real>(l: &Launch<'_>) {
    let g = Geometry::of(l);
    if let Some(w) = Winograd::of(&g, true).filter(|_| l.has("work") && l.dtype("dx") == DType::F32) {
        return winograd::run(l.pool, &w, l.read("dy"), l.read("w"), None, &l.shared("dx"), &l.shared("work"));
    }
    let (dy, w, dx) = (l.read::<T>("dy"), l.read::<T>("w"), l.shared::<T>("dx"));
    for phase in 0..g.phases() {
        let c = Correlation {
            n: g.n,
            groups: g.groups,
            sources: g.co_group(),
            results: g.ci_group(),
            source_stride: g.ci_group() * g.taps(),
            result_stride: g.taps(),
            axes: g.backward(phase),
        };
        correlate(l.pool, &c, dy, w, None, &dx);
    }
}
