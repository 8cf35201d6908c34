//! Convolution on a CPU: the sum over channels and taps at every output element.

use super::correlate::{Correlation, correlate};
use super::geometry::Geometry;
use super::planes;
use super::pointwise;
use super::winograd;
use crate::simd::Real;
use crate::{DType, Launch, Stored, for_stored};

pub(super) fn run(l: &Launch<'_>) {
    if l.dtype("w") == DType::Bf16 {
        let g = Geometry::of(l);
        if pointwise::is_pointwise(&g) {
            let (x, bias) = (l.read("x"), l.read_if("bias"));
            return pointwise::run(l.pool, (&g, false), x, l.read("w"), bias, &l.shared("y"));
        }
        if l.has("work") {
            let (x, bias, y, work) = (l.read("x"), l.read_if("bias"), l.shared("y"), l.shared("work"));
            if planes::run(l.pool, (&g, false), x, l.read("w"), bias, &y, &work) {
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
    if l.has("work") && l.dtype("y") == DType::F32 {
        let (x, bias, y, work) = (l.read("x"), l.read_if("bias"), l.shared("y"), l.shared("work"));
        if for_stored!(l.dtype("w"), S => winograd::run::<S>(l.pool, (&g, false), x, l.read("w"), bias, &y, &work)) {
            return;
        }
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
    correlate(l.pool, &c, l.read::<T>("x"), l.read::<W>("w"), l.read_if("bias"), &l.shared("y"));
}
