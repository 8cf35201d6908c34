//! Gradients of gated linear units on a CPU.

use crate::function::{Rule, Use, choose};
use crate::glu::Halves;
use crate::grid::GRAIN;
use crate::math::Maths;
use crate::simd::{Job, dispatch};
use crate::{Launch, Shared, for_float};
use std::marker::PhantomData;

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("x"), T => choose(l.word("op"), Slopes::<T> { l, kind: PhantomData }))
}

struct Slopes<'a, T> {
    l: &'a Launch<'a>,
    kind: PhantomData<T>,
}

impl<T: Maths> Use for Slopes<'_, T> {
    #[expect(unsafe_code, reason = "tasks write disjoint ranges of both halves")]
    fn with(self, rule: impl Rule) {
        let l = self.l;
        let (dy, x, halves) = (l.read::<T>("dy"), Shared::new(l.write::<T>("x")), Halves::of(l, "dy"));
        let (alpha, beta) = (T::of(l.float("alpha")), T::of(l.float("beta")));
        l.pool.run(dy.len().div_ceil(GRAIN), |task, _| {
            let dy = &dy[task * GRAIN..dy.len().min((task + 1) * GRAIN)];
            for (len, at, [a, b]) in halves.pieces(task * GRAIN..task * GRAIN + dy.len()) {
                // SAFETY: each element of x belongs to one element of dy, and each of those to one task; a and b are in different halves.
                let (a, b) = unsafe { (x.range(a, len), x.range(b, len)) };
                dispatch(Line { rule, dy: &dy[at..][..len], a, b, alpha, beta });
            }
        });
    }
}

struct Line<'a, T, R> {
    rule: R,
    dy: &'a [T],
    a: &'a mut [T],
    b: &'a mut [T],
    alpha: T,
    beta: T,
}

impl<T: Maths, R: Rule> Job for Line<'_, T, R> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((a, b), &dy) in self.a.iter_mut().zip(self.b).zip(self.dy) {
            let (value, gate) = (*a, *b);
            *a = dy * self.rule.value::<T, FMA>(gate, self.alpha, self.beta);
            *b = dy * value * self.rule.slope::<T, FMA>(gate, self.alpha, self.beta);
        }
    }
}
