//! Elementwise functions of two operands on a CPU.

use crate::grid::{GRAIN, Grid};
use crate::simd::{Job, dispatch};
use crate::{Element, Launch, for_element, for_integer};

pub(super) fn run(l: &Launch<'_>) {
    match l.word("op") {
        "and" => map(l, |a: u8, b: u8| a & b),
        "or" => map(l, |a: u8, b: u8| a | b),
        "xor" => map(l, |a: u8, b: u8| a ^ b),
        "bit_and" | "bit_or" | "bit_xor" | "shift_left" | "shift_right" => {
            for_integer!(l.dtype("a"), T => bits::<T>(l, l.word("op")));
        }
        op => for_element!(l.dtype("a"), T => numbers::<T>(l, op)),
    }
}

fn bits<T: Bits>(l: &Launch<'_>, op: &str) {
    match op {
        "bit_and" => map(l, |a: T, b: T| a & b),
        "bit_or" => map(l, |a: T, b: T| a | b),
        "bit_xor" => map(l, |a: T, b: T| a ^ b),
        "shift_left" => map(l, T::left),
        "shift_right" => map(l, T::right),
        _ => unreachable!("`{op}` is no function of bits"),
    }
}

/// Integers as bits. A shift by the width or more, or by a negative number, leaves nothing but the sign.
trait Bits:
    Element + std::ops::BitAnd<Output = Self> + std::ops::BitOr<Output = Self> + std::ops::BitXor<Output = Self>
{
    fn left(self, by: Self) -> Self;
    fn right(self, by: Self) -> Self;
}

fn numbers<T: Number>(l: &Launch<'_>, op: &str) {
    match op {
        "add" => map(l, T::add),
        "sub" => map(l, T::sub),
        "mul" => map(l, T::mul),
        "div" => map(l, T::div),
        "pow" => map(l, T::pow),
        "mod" => map(l, T::modulo),
        "fmod" => map(l, T::remainder),
        "min" => map(l, |a: T, b: T| if a.is_none() || a < b { a } else { b }),
        "max" => map(l, |a: T, b: T| if a.is_none() || a > b { a } else { b }),
        "equal" => map(l, |a: T, b: T| u8::from(a == b)),
        "less" => map(l, |a: T, b: T| u8::from(a < b)),
        "less_equal" => map(l, |a: T, b: T| u8::from(a <= b)),
        "greater" => map(l, |a: T, b: T| u8::from(a > b)),
        "greater_equal" => map(l, |a: T, b: T| u8::from(a >= b)),
        _ => unreachable!("`{op}` is no elementwise function of two numbers"),
    }
}

/// Arithmetic as the kernel defines it.
trait Number: Element {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn pow(self, other: Self) -> Self;
    fn modulo(self, other: Self) -> Self;
    fn remainder(self, other: Self) -> Self;
    /// Whether this is no number.
    fn is_none(self) -> bool;
}

macro_rules! floats {
    ($($t:ty),*) => {$(
        impl Number for $t {
            #[inline(always)]
            fn add(self, other: $t) -> $t { self + other }
            #[inline(always)]
            fn sub(self, other: $t) -> $t { self - other }
            #[inline(always)]
            fn mul(self, other: $t) -> $t { self * other }
            #[inline(always)]
            fn div(self, other: $t) -> $t { self / other }
            #[inline(always)]
            fn pow(self, other: $t) -> $t { if other == 2.0 { self * self } else { self.powf(other) } }
            #[inline(always)]
            fn modulo(self, other: $t) -> $t {
                let r = self % other;
                if r != 0.0 && (r < 0.0) != (other < 0.0) { r + other } else { r }
            }
            #[inline(always)]
            fn remainder(self, other: $t) -> $t { self % other }
            #[inline(always)]
            fn is_none(self) -> bool { self.is_nan() }
        }
    )*};
}
floats!(f32, f64);

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            #[inline(always)]
            fn add(self, other: $t) -> $t { self.wrapping_add(other) }
            #[inline(always)]
            fn sub(self, other: $t) -> $t { self.wrapping_sub(other) }
            #[inline(always)]
            fn mul(self, other: $t) -> $t { self.wrapping_mul(other) }
            #[inline(always)]
            fn div(self, other: $t) -> $t { if other == 0 { 0 } else { self.wrapping_div(other) } }
            #[inline(always)]
            fn pow(self, other: $t) -> $t {
                match u32::try_from(other) {
                    Ok(other) => self.wrapping_pow(other),
                    // A power too large to count, or negative, of which only those of one and of minus one are whole.
                    Err(_) => (self as f64).powf(other as f64) as $t,
                }
            }
            #[inline(always)]
            #[allow(unused_comparisons, reason = "written once for signed and unsigned types")]
            fn modulo(self, other: $t) -> $t {
                let r = self.remainder(other);
                if r != 0 && (r < 0) != (other < 0) { r.wrapping_add(other) } else { r }
            }
            #[inline(always)]
            fn remainder(self, other: $t) -> $t { if other == 0 { 0 } else { self.wrapping_rem(other) } }
            #[inline(always)]
            fn is_none(self) -> bool { false }
        }

        impl Bits for $t {
            #[inline(always)]
            fn left(self, by: $t) -> $t { u32::try_from(by).ok().and_then(|by| self.checked_shl(by)).unwrap_or(0) }
            #[inline(always)]
            #[allow(unused_comparisons, reason = "written once for signed and unsigned types")]
            fn right(self, by: $t) -> $t {
                let sign = if self < 0 { !0 } else { 0 };
                u32::try_from(by).ok().and_then(|by| self.checked_shr(by)).unwrap_or(sign)
            }
        }
    )*};
}
integers!(i64, i32, i16, i8, u64, u32, u16, u8);

fn map<T: Element, R: Element>(l: &Launch<'_>, f: impl Fn(T, T) -> R + Copy + Sync) {
    let (a, b) = (l.read::<T>("a"), l.read::<T>("b"));
    let grid = &Grid::of(l.ints("shape"), [l.ints("a_strides"), l.ints("b_strides")]);
    l.pool.chunks(l.write::<R>("y"), GRAIN, |i, y| dispatch(Part { f, a, b, grid, start: i * GRAIN, y }));
}

/// The results from `start` on that `y` has room for.
struct Part<'a, T, R, F> {
    f: F,
    a: &'a [T],
    b: &'a [T],
    grid: &'a Grid<2>,
    start: usize,
    y: &'a mut [R],
}

impl<T: Element, R: Element, F: Fn(T, T) -> R> Job for Part<'_, T, R, F> {
    type Out = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Part { f, a, b, grid, start, y } = self;
        let strides = grid.inner().strides;
        grid.runs(start, y.len(), |[from_a, from_b], at, n| {
            let y = &mut y[at..][..n];
            let (a, b) = (&a[from_a as usize..], &b[from_b as usize..]);
            match strides {
                [1, 1] => {
                    for ((y, &a), &b) in y.iter_mut().zip(&a[..n]).zip(&b[..n]) {
                        *y = f(a, b);
                    }
                }
                [1, 0] => {
                    let b = b[0];
                    for (y, &a) in y.iter_mut().zip(&a[..n]) {
                        *y = f(a, b);
                    }
                }
                [0, 1] => {
                    let a = a[0];
                    for (y, &b) in y.iter_mut().zip(&b[..n]) {
                        *y = f(a, b);
                    }
                }
                [a_stride, b_stride] => {
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = f(a[i * a_stride as usize], b[i * b_stride as usize]);
                    }
                }
            }
        });
    }
}
