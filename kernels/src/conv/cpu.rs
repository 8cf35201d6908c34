//! Convolution on a CPU: the sum over channels and taps at every output element.

use super::correlate::{Correlation, correlate};
use super::geometry::Geometry;
use super::planes;
use super::pointwise;
use super::winograd;
use crate::simd::Real;
use crate::{DType, Launch, Pool, Shared, Stored, for_stored};
use half::bf16;

pub(super) fn run(l: &Launch<'_>) {
    convolve(l, false, "x", Some("bias"), "y");
}

/// Computes a convolution or, from the output's gradient, its input gradient, in the form that is made for shape, types and processor.
/// `source`, `bias` and `result` are names of arguments.
pub(crate) fn convolve(l: &Launch<'_>, backward: bool, source: &str, bias: Option<&str>, result: &str) {
    let of = (&Geometry::of(l), backward);
    match (l.dtype(source), l.dtype("w")) {
        (DType::F64, _) => {
            let bias = bias.and_then(|bias| l.read_if(bias));
            sums::<f64, f64, f64>(l.pool, of, l.read(source), l.read("w"), bias, &l.shared(result));
        }
        // Only weights that are stored so meet such a source.
        (DType::Bf16, _) => single::<bf16, bf16>(l, of, source, bias, result),
        (_, stored) => for_stored!(stored, W => single::<f32, W>(l, of, source, bias, result)),
    }
}

/// The same in single precision.
fn single<S: Stored<f32>, W: Stored<f32>>(
    l: &Launch<'_>,
    of: (&Geometry, bool),
    source: &str,
    bias: Option<&str>,
    result: &str,
) {
    let (source, weights, bias) = (l.read::<S>(source), l.read::<W>("w"), bias.and_then(|bias| l.read_if(bias)));
    let result = l.shared(result);
    let halves = W::views(DType::Bf16).then(|| bytemuck::cast_slice::<_, bf16>(weights));
    if let Some(halves) = halves.filter(|_| pointwise::is_pointwise(of.0)) {
        return pointwise::run(l.pool, of, source, halves, bias, &result);
    }
    if l.has("work") {
        let work = l.shared("work");
        let done = halves.is_some_and(|halves| planes::run(l.pool, of, source, halves, bias, &result, &work));
        if done || winograd::run(l.pool, of, source, weights, bias, &result, &work) {
            return;
        }
    }
    sums(l.pool, of, source, weights, bias, &result);
}

/// The sums as they are written, one class of the result after the other.
fn sums<T: Real, S: Stored<T>, W: Stored<T>>(
    pool: &Pool,
    (g, backward): (&Geometry, bool),
    source: &[S],
    weights: &[W],
    bias: Option<&[T]>,
    result: &Shared<'_, T>,
) {
    let [ci, co, taps] = [g.ci_group(), g.co_group(), g.taps()];
    // Channels, and distances of their weights.
    let [(sources, source_stride), (results, result_stride)] =
        if backward { [(co, ci * taps), (ci, taps)] } else { [(ci, taps), (co, ci * taps)] };
    for class in 0..if backward { g.phases() } else { 1 } {
        let axes = if backward { g.backward(class) } else { g.forward() };
        let c = Correlation { n: g.n, groups: g.groups, sources, results, source_stride, result_stride, axes };
        correlate(pool, &c, source, weights, bias, result);
    }
}
