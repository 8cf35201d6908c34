//! Mean squared error on a CPU: tasks add up ranges, whose sums are then added in order.

use crate::rows::reduce;
use crate::simd::{Job, LANES, Real, dispatch, total};
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("x"), T => typed::<T>(l))
}

fn typed<T: Real>(l: &Launch<'_>) {
    let (x, t) = (l.read::<T>("x"), l.read::<T>("t"));
    let sum = reduce(l.pool, x.len(), |range| dispatch(Distance { x: &x[range.clone()], t: &t[range] }));
    l.write::<T>("loss")[0] = T::of(sum / x.len() as f64);
}

struct Distance<'a, T> {
    x: &'a [T],
    t: &'a [T],
}

impl<T: Real> Job for Distance<'_, T> {
    type Out = f64;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let mut lanes = [0.0; LANES];
        let ((x, x_rest), (t, t_rest)) = (self.x.as_chunks::<LANES>(), self.t.as_chunks::<LANES>());
        for (x, t) in x.iter().zip(t) {
            for i in 0..LANES {
                let d = x[i].f64() - t[i].f64();
                lanes[i] = d.madd::<FMA>(d, lanes[i]);
            }
        }
        let mut tail = 0.0;
        for (x, t) in x_rest.iter().zip(t_rest) {
            let d = x.f64() - t.f64();
            tail = d.madd::<FMA>(d, tail);
        }
        total(lanes) + tail
    }
}
