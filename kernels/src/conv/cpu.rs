//! Convolution on a CPU: the sum over channels and taps at every output element.

use super::correlate::{Correlation, correlate};
use super::geometry::Geometry;
use super::pointwise;
use super::winograd::{self, Winograd};
use crate::simd::Real;
use crate::{DType, Launch, Stored, for_float};
use half::bf16;

pub(super) fn run(l: &Launch<'_>) {
    if l.dtype("w") == DType::Bf16 {
        let g = Geometry::of(l);
        if pointwise::is_pointwise(&g) {
            let (x, bias) = (l.read("x"), l.read_if("bias"));
            return pointwise::run(l.pool, (&g, false), x, l.read("w"), bias, &l.shared("y"));
        }
        return typed::<f32, bf16>(l);
    }
    for_float!(l.dtype("y"), T => typed::<T, T>(l))
}

fn typed<T: Real, W: Stored<T>>(l: &Launch<'_>) {
    let g = Geometry::of(l);
    if let Some(w) = Winograd::of(&g, false).filter(|_| l.has("work") && l.dtype("y") == DType::F32) {
        let (x, bias) = (l.read("x"), l.read_if("bias"));
        let (y, work) = (l.shared("y"), l.shared("work"));
        return match l.dtype("w") {
            DType::Bf16 => winograd::run::<bf16>(l.pool, &w, x, l.read("w"), bias, &y, &work),
            _ => winograd::run::<f32>(l.pool, &w, x, l.read("w"), bias, &y, &work),
        };
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
