//! Gated linear units on a CPU.

use super::Halves;
use crate::function::{Rule, Use, choose};
use crate::grid::GRAIN;
use crate::math::Maths;
use crate::simd::{Job, dispatch};
use crate::{Launch, for_float};
use std::marker::PhantomData;

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("x"), T => choose(l.word("op"), Units::<T> { l, kind: PhantomData }))
}

struct Units<'a, T> {
    l: &'a Launch<'a>,
    kind: PhantomData<T>,
}

impl<T: Maths> Use for Units<'_, T> {
    fn with(self, rule: impl Rule) {
        let l = self.l;
        let (x, halves) = (l.read::<T>("x"), Halves::of(l, "y"));
        let (alpha, beta) = (T::of(l.float("alpha")), T::of(l.float("beta")));
        l.pool.chunks(l.write::<T>("y"), GRAIN, |i, y| {
            for (len, at, [a, b]) in halves.pieces(i * GRAIN..i * GRAIN + y.len()) {
                dispatch(Line { rule, a: &x[a..][..len], b: &x[b..][..len], y: &mut y[at..][..len], alpha, beta });
            }
        });
    }
}

struct Line<'a, T, R> {
    rule: R,
    a: &'a [T],
    b: &'a [T],
    y: &'a mut [T],
    alpha: T,
    beta: T,
}

impl<T: Maths, R: Rule> Job for Line<'_, T, R> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((y, &a), &b) in self.y.iter_mut().zip(self.a).zip(self.b) {
            *y = a * self.rule.value::<T, FMA>(b, self.alpha, self.beta);
        }
    }
}
