//! Gradients of gated linear units on a CPU.

use crate::function::{Rule, Use, choose};
use crate::glu::Halves;
use crate::grid::GRAIN;
use crate::math::Maths;
use crate::rounded::{PART, narrow, widen};
use crate::simd::{Job, dispatch};
use crate::{DType, Launch, Shared, Stored, for_float};
use half::bf16;
use std::marker::PhantomData;

pub(super) fn run(l: &Launch<'_>) {
    let op = l.word("op");
    match (l.dtype("x"), l.dtype("dy")) {
        (DType::Bf16, DType::Bf16) => choose(op, Rounded::<bf16, bf16> { l, kind: PhantomData }),
        (DType::Bf16, _) => choose(op, Rounded::<bf16, f32> { l, kind: PhantomData }),
        (_, DType::Bf16) => choose(op, Rounded::<f32, bf16> { l, kind: PhantomData }),
        (float, _) => for_float!(float, T => choose(op, Slopes::<T> { l, kind: PhantomData })),
    }
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

/// A function of a part that changes two others.
type OfOne<'f> = dyn Fn(&[f32], &mut [f32], &mut [f32]) + Sync + 'f;

/// The same where `x`, `dy` or both are rounded.
struct Rounded<'a, X, D> {
    l: &'a Launch<'a>,
    kind: PhantomData<(X, D)>,
}

impl<X: Stored<f32>, D: Stored<f32>> Use for Rounded<'_, X, D> {
    fn with(self, rule: impl Rule) {
        let (alpha, beta) = (self.l.float("alpha") as f32, self.l.float("beta") as f32);
        self.each(&|dy, a, b| dispatch(Line { rule, dy, a, b, alpha, beta }));
    }
}

impl<X: Stored<f32>, D: Stored<f32>> Rounded<'_, X, D> {
    /// Computes parts by a function that is known only when it runs, so that this is compiled once for all of them.
    #[expect(unsafe_code, reason = "tasks write disjoint ranges of both halves")]
    fn each(&self, function: &OfOne<'_>) {
        let l = self.l;
        let (dy, x, halves) = (l.read::<D>("dy"), Shared::new(l.write::<X>("x")), Halves::of(l, "dy"));
        l.pool.run(dy.len().div_ceil(GRAIN), |task, _| {
            let dy = &dy[task * GRAIN..dy.len().min((task + 1) * GRAIN)];
            let [mut first, mut second, mut third] = [[0.0; PART]; 3];
            for (len, at, [a, b]) in halves.pieces(task * GRAIN..task * GRAIN + dy.len()) {
                // SAFETY: each element of x belongs to one element of dy, and each of those to one task; a and b are in different halves.
                let (a, b) = unsafe { (x.range(a, len), x.range(b, len)) };
                let parts = a.chunks_mut(PART).zip(b.chunks_mut(PART));
                for ((a, b), dy) in parts.zip(dy[at..][..len].chunks(PART)) {
                    let (wide_a, wide_b, dy) = (widen(a, &mut first), widen(b, &mut second), widen(dy, &mut third));
                    function(dy, &mut *wide_a, &mut *wide_b);
                    narrow(wide_a, a);
                    narrow(wide_b, b);
                }
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
