//! Gated linear units on a CPU.

use super::Halves;
use crate::function::{Rule, Use, choose};
use crate::grid::GRAIN;
use crate::math::Maths;
use crate::rounded::{OfTwo, PART, narrow, widen};
use crate::simd::{Job, dispatch};
use crate::{DType, Launch, Stored, for_float};
use half::bf16;
use std::marker::PhantomData;

pub(super) fn run(l: &Launch<'_>) {
    let op = l.word("op");
    match (l.dtype("x"), l.dtype("y")) {
        (DType::Bf16, DType::Bf16) => choose(op, Rounded::<bf16, bf16> { l, kind: PhantomData }),
        (DType::Bf16, _) => choose(op, Rounded::<bf16, f32> { l, kind: PhantomData }),
        (_, DType::Bf16) => choose(op, Rounded::<f32, bf16> { l, kind: PhantomData }),
        (float, _) => for_float!(float, T => choose(op, Units::<T> { l, kind: PhantomData })),
    }
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

/// The same where `x`, `y` or both are rounded.
struct Rounded<'a, X, Y> {
    l: &'a Launch<'a>,
    kind: PhantomData<(X, Y)>,
}

impl<X: Stored<f32>, Y: Stored<f32>> Use for Rounded<'_, X, Y> {
    fn with(self, rule: impl Rule) {
        let (alpha, beta) = (self.l.float("alpha") as f32, self.l.float("beta") as f32);
        self.each(&|a, b, y| dispatch(Line { rule, a, b, y, alpha, beta }));
    }
}

impl<X: Stored<f32>, Y: Stored<f32>> Rounded<'_, X, Y> {
    /// Computes parts by a function that is known only when it runs, so that this is compiled once for all of them.
    fn each(&self, function: &OfTwo<'_>) {
        let l = self.l;
        let (x, halves) = (l.read::<X>("x"), Halves::of(l, "y"));
        l.pool.chunks(l.write::<Y>("y"), GRAIN, |i, y| {
            let [mut first, mut second, mut result] = [[0.0; PART]; 3];
            for (len, at, [a, b]) in halves.pieces(i * GRAIN..i * GRAIN + y.len()) {
                let parts = x[a..][..len].chunks(PART).zip(x[b..][..len].chunks(PART));
                for ((a, b), y) in parts.zip(y[at..][..len].chunks_mut(PART)) {
                    let (a, b, result) = (widen(a, &mut first), widen(b, &mut second), &mut result[..y.len()]);
                    function(a, b, &mut *result);
                    narrow(result, y);
                }
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
