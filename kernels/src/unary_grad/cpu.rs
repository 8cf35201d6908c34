//! Gradients of elementwise functions on a CPU.

use crate::function::{Rule, Use, choose};
use crate::grid::GRAIN;
use crate::math::Maths;
use crate::rounded::{OfTwo, PART, widen};
use crate::simd::{Job, dispatch};
use crate::{DType, Launch, for_float};
use half::bf16;
use std::marker::PhantomData;

pub(super) fn run(l: &Launch<'_>) {
    match l.dtype("x") {
        DType::Bf16 => choose(l.word("op"), Rounded(l)),
        float => for_float!(float, T => choose(l.word("op"), Slopes::<T> { l, kind: PhantomData })),
    }
}

struct Slopes<'a, T> {
    l: &'a Launch<'a>,
    kind: PhantomData<T>,
}

impl<T: Maths> Use for Slopes<'_, T> {
    fn with(self, rule: impl Rule) {
        let l = self.l;
        let (x, dy) = (l.read::<T>("x"), l.read::<T>("dy"));
        let (alpha, beta) = (T::of(l.float("alpha")), T::of(l.float("beta")));
        l.pool.chunks(l.write::<T>("dx"), GRAIN, |i, dx| {
            let (x, dy) = (&x[i * GRAIN..][..dx.len()], &dy[i * GRAIN..][..dx.len()]);
            dispatch(Line { rule, x, dy, dx, alpha, beta });
        });
    }
}

/// The same for a rounded `x`.
struct Rounded<'a>(&'a Launch<'a>);

impl Use for Rounded<'_> {
    fn with(self, rule: impl Rule) {
        let (alpha, beta) = (self.0.float("alpha") as f32, self.0.float("beta") as f32);
        self.each(&|x, dy, dx| dispatch(Line { rule, x, dy, dx, alpha, beta }));
    }
}

impl Rounded<'_> {
    /// Computes parts by a function that is known only when it runs, so that this is compiled once for all of them.
    fn each(&self, function: &OfTwo<'_>) {
        let l = self.0;
        let (x, dy) = (l.read::<bf16>("x"), l.read::<f32>("dy"));
        l.pool.chunks(l.write::<f32>("dx"), GRAIN, |i, dx| {
            let mut part = [0.0; PART];
            let parts = x[i * GRAIN..].chunks(PART).zip(dy[i * GRAIN..].chunks(PART));
            for ((x, dy), dx) in parts.zip(dx.chunks_mut(PART)) {
                function(widen(&x[..dx.len()], &mut part), dy, dx);
            }
        });
    }
}

struct Line<'a, T, R> {
    rule: R,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    alpha: T,
    beta: T,
}

impl<T: Maths, R: Rule> Job for Line<'_, T, R> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((dx, &dy), &x) in self.dx.iter_mut().zip(self.dy).zip(self.x) {
            *dx = dy * self.rule.slope::<T, FMA>(x, self.alpha, self.beta);
        }
    }
}
