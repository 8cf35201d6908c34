//! The dense weight gradient on a CPU: a task owns some terms (input channel and tap) of one group for all output channels,
//! and adds the products of the output gradient with columns of the input, a block of points at a time.

use crate::conv::geometry::{self, Geometry};
use crate::product::{Dims, Mat, product_shared};
use crate::simd::{Job, Real, dispatch};
use crate::{Launch, for_float, scratch};

/// Terms of a task.
const TERMS: usize = 96;
/// Points of a block.
const POINTS: usize = 1024;

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dw"), T => typed::<T>(l))
}

#[expect(unsafe_code, reason = "tasks write disjoint columns of the result")]
fn typed<T: Real>(l: &Launch<'_>) {
    let g = Geometry::of(l);
    let (x, dy, dw) = (l.read::<T>("x"), l.read::<T>("dy"), l.shared::<T>("dw"));
    let axes = g.forward();
    let (input_len, points) = (g.input_len(), g.output_len());
    let (co, terms) = (g.co_group(), g.ci_group() * g.taps());
    let parts = terms.div_ceil(TERMS);
    l.pool.run(g.groups * parts, |task, bytes| {
        let (group, from) = (task / parts, task % parts * TERMS);
        let some = from..terms.min(from + TERMS);
        let n = some.len();
        for o in group * co..(group + 1) * co {
            // SAFETY: tasks have different groups or terms.
            unsafe { dw.range(o * terms + from, n) }.fill(T::of(0.0));
        }
        for image in 0..g.n {
            let x = &x[(image * g.ci + group * g.ci_group()) * input_len..][..g.ci_group() * input_len];
            for start in (0..points).step_by(POINTS) {
                let range = start..points.min(start + POINTS);
                let k = range.len();
                let columns = scratch::<T>(&mut *bytes, n * k);
                dispatch(Columns { source: x, axes: &axes, terms: some.clone(), range, out: &mut *columns });
                let a = Mat::new(&dy[(image * g.co + group * co) * points + start..], points, 1);
                let b = Mat::new(&*columns, 1, k);
                let (one, at) = (T::of(1.0), group * co * terms + from);
                // SAFETY: as above.
                unsafe { product_shared(Dims { m: co, n, k }, one, a, b, one, &dw, at, [terms, 1]) };
            }
        }
    });
}

struct Columns<'a, T> {
    source: &'a [T],
    axes: &'a [geometry::Axis; 3],
    terms: std::ops::Range<usize>,
    range: std::ops::Range<usize>,
    out: &'a mut [T],
}

impl<T: Real> Job for Columns<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        geometry::columns(self.source, self.axes, self.terms, self.range, self.out);
    }
}
