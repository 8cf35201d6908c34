//! The input gradient on a CPU: for each class of input elements with the same remainder modulo the strides, a sum over
//! output channels and the taps that reach this class.

use crate::conv::correlate::{Correlation, correlate};
use crate::conv::geometry::Geometry;
use crate::conv::planes;
use crate::conv::pointwise;
use crate::conv::winograd;
use crate::simd::Real;
use crate::{DType, Launch, Stored, for_stored};

pub(super) fn run(l: &Launch<'_>) {
    if l.dtype("w") == DType::Bf16 {
        let g = Geometry::of(l);
        if pointwise::is_pointwise(&g) {
            return pointwise::run(l.pool, (&g, true), l.read("dy"), l.read("w"), None, &l.shared("dx"));
        }
        if l.has("work") {
            let (dy, dx, work) = (l.read("dy"), l.shared("dx"), l.shared("work"));
            if planes::run(l.pool, (&g, true), dy, l.read("w"), None, &dx, &work) {
                return;
            }
        }
    }
    match l.dtype("w") {
        DType::F64 => typed::<f64, f64>(l),
        stored => for_stored!(stored, W => typed::<f32, W>(l)),
    }
}

fn typed<T: Real, W: Stored<T>>(l: &Launch<'_>) {
    let g = Geometry::of(l);
    if l.has("work") && l.dtype("dx") == DType::F32 {
        let (dy, dx, work) = (l.read("dy"), l.shared("dx"), l.shared("work"));
        if for_stored!(l.dtype("w"), S => winograd::run::<S>(l.pool, (&g, true), dy, l.read("w"), None, &dx, &work)) {
            return;
        }
    }
    let (dy, w, dx) = (l.read::<T>("dy"), l.read::<W>("w"), l.shared::<T>("dx"));
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
