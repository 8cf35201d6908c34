//! Elementwise functions on a CPU.

use crate::function::{Rule, Use, choose};
use crate::grid::GRAIN;
use crate::math::Maths;
use crate::rounded::{PART, narrow, widen};
use crate::simd::{Job, dispatch};
use crate::{DType, Element, Launch, Stored, for_integer};
use half::bf16;
use std::marker::PhantomData;

pub(super) fn run(l: &Launch<'_>) {
    let op = l.word("op");
    match op {
        "not" => map(l, |x: u8| u8::from(x == 0)),
        _ => match l.dtype("x") {
            DType::Bf16 if l.dtype("y") == DType::Bf16 => choose(op, Rounded::<bf16, bf16>::new(l)),
            DType::Bf16 => choose(op, Rounded::<bf16, f32>::new(l)),
            DType::F32 if l.dtype("y") == DType::Bf16 => choose(op, Rounded::<f32, bf16>::new(l)),
            DType::F32 => choose(op, Values::<f32>::new(l)),
            DType::F64 => choose(op, Values::<f64>::new(l)),
            other => for_integer!(other, T => {
                let (low, high) = (l.float("alpha") as T, l.float("beta") as T);
                let (zero, one) = (0 as T, 1 as T);
                match op {
                    "neg" => map(l, |x: T| zero.minus(x)),
                    "abs" => map(l, |x: T| if x < zero { zero.minus(x) } else { x }),
                    "sign" => map(l, |x: T| if x > zero { one } else { zero.minus(T::from(x < zero)) }),
                    "relu" => map(l, |x: T| if x < zero { zero } else { x }),
                    "floor" | "ceil" | "round" => map(l, |x: T| x),
                    "bit_not" => map(l, T::flip),
                    "clip" => map(l, |x: T| {
                        let x = if x < low { low } else { x };
                        if x > high { high } else { x }
                    }),
                    _ => unreachable!("`{op}` is no elementwise function of integers"),
                }
            }),
        },
    }
}

/// Arithmetic of integers.
trait Integer: Element {
    /// The difference, which wraps.
    fn minus(self, other: Self) -> Self;
    /// All bits turned round.
    fn flip(self) -> Self;
}
macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Integer for $t {
            #[inline(always)]
            fn minus(self, other: $t) -> $t { self.wrapping_sub(other) }
            #[inline(always)]
            fn flip(self) -> $t { !self }
        }
    )*};
}
integers!(i64, i32, i16, i8, u64, u32, u16, u8);

fn map<T: Element>(l: &Launch<'_>, f: impl Fn(T) -> T + Sync) {
    let x = l.read::<T>("x");
    l.pool.chunks(l.write::<T>("y"), GRAIN, |i, y| {
        for (y, &x) in y.iter_mut().zip(&x[i * GRAIN..]) {
            *y = f(x);
        }
    });
}

struct Values<'a, T> {
    l: &'a Launch<'a>,
    alpha: T,
    beta: T,
}

impl<'a, T: Maths> Values<'a, T> {
    fn new(l: &'a Launch<'a>) -> Self {
        Values { l, alpha: T::of(l.float("alpha")), beta: T::of(l.float("beta")) }
    }
}

impl<T: Maths> Use for Values<'_, T> {
    fn with(self, rule: impl Rule) {
        let x = self.l.read::<T>("x");
        self.l.pool.chunks(self.l.write::<T>("y"), GRAIN, |i, y| {
            let x = &x[i * GRAIN..][..y.len()];
            dispatch(Line { rule, x, y, alpha: self.alpha, beta: self.beta });
        });
    }
}

/// The same where `x`, `y` or both are rounded.
struct Rounded<'a, X, Y> {
    values: Values<'a, f32>,
    kind: PhantomData<(X, Y)>,
}

impl<'a, X, Y> Rounded<'a, X, Y> {
    fn new(l: &'a Launch<'a>) -> Self {
        Rounded { values: Values::new(l), kind: PhantomData }
    }
}

impl<X: Stored<f32>, Y: Stored<f32>> Use for Rounded<'_, X, Y> {
    fn with(self, rule: impl Rule) {
        let Values { alpha, beta, .. } = self.values;
        self.each(&|x, y| dispatch(Line { rule, x, y, alpha, beta }));
    }
}

impl<X: Stored<f32>, Y: Stored<f32>> Rounded<'_, X, Y> {
    /// Computes parts by a function that is known only when it runs, so that this is compiled once for all of them.
    fn each(&self, function: &(dyn Fn(&[f32], &mut [f32]) + Sync)) {
        let l = self.values.l;
        let x = l.read::<X>("x");
        l.pool.chunks(l.write::<Y>("y"), GRAIN, |i, y| {
            let [mut wide, mut result] = [[0.0; PART]; 2];
            for (x, y) in x[i * GRAIN..].chunks(PART).zip(y.chunks_mut(PART)) {
                let (x, result) = (widen(&x[..y.len()], &mut wide), &mut result[..y.len()]);
                function(x, &mut *result);
                narrow(result, y);
            }
        });
    }
}

struct Line<'a, T, R> {
    rule: R,
    x: &'a [T],
    y: &'a mut [T],
    alpha: T,
    beta: T,
}

impl<T: Maths, R: Rule> Job for Line<'_, T, R> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = self.rule.value::<T, FMA>(x, self.alpha, self.beta);
        }
    }
}
