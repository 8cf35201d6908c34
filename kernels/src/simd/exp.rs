//! The exponential in single precision, in forms that compilers can vectorise.

use super::Real;

/// The part of the exponential in `f32` that needs arithmetic.
pub(crate) trait ExpParts: Sized {
    /// `(p, n)` such that the exponential is `p * 2^n`, with `p` near one. The argument must be within -128..128 or NaN, which
    /// makes `p` NaN.
    fn exp_parts<const FMA: bool>(self) -> (Self, i32);
}

/// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Coefficients of `(exp(r) - 1 - r) / r^2`, the highest power first.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 5e-1];

impl ExpParts for f32 {
    #[inline(always)]
    fn exp_parts<const FMA: bool>(self) -> (f32, i32) {
        let ([p], [n]) = exp_parts::<FMA, 1>([self]);
        (p, n)
    }
}

/// [`ExpParts::exp_parts`] of several numbers. A step is taken for all of them before the next, because each waits for the one before.
#[inline(always)]
fn exp_parts<const FMA: bool, const N: usize>(x: [f32; N]) -> ([f32; N], [i32; N]) {
    let (mut shifted, mut r, mut p, mut n) = (x, x, x, [0; N]);
    for v in 0..N {
        shifted[v] = x[v].madd::<FMA>(std::f32::consts::LOG2_E, ROUND);
    }
    for v in 0..N {
        r[v] = (shifted[v] - ROUND).madd::<FMA>(-LN2_HIGH, x[v]);
    }
    for v in 0..N {
        r[v] = (shifted[v] - ROUND).madd::<FMA>(-LN2_LOW, r[v]);
        p[v] = EXP[0];
    }
    for factor in &EXP[1..] {
        for v in 0..N {
            p[v] = p[v].madd::<FMA>(r[v], *factor);
        }
    }
    for v in 0..N {
        p[v] = p[v].madd::<FMA>(r[v] * r[v], r[v] + 1.0);
        n[v] = (shifted[v].to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    }
    (p, n)
}

/// Exponentials of several numbers, as exact as [`Real::exp_lane`] in fewer steps: those of numbers above 88 are that of 88. NaN stays.
#[inline(always)]
pub(crate) fn exp_each<const FMA: bool, const N: usize>(x: [f32; N]) -> [f32; N] {
    let mut clamped = x;
    for x in &mut clamped {
        *x = if -87.0 > *x { -87.0 } else { *x };
        *x = if 88.0 < *x { 88.0 } else { *x };
    }
    let (mut p, n) = exp_parts::<FMA, N>(clamped);
    for v in 0..N {
        let power = f32::from_bits((n[v].wrapping_add(127) as u32) << 23);
        p[v] = if x[v] < -87.0 { 0.0 } else { p[v] * power };
    }
    p
}

/// Coefficients of the power of two, the highest first.
const EXP2: [f32; 5] = [9.570_08e-3, 5.591_784e-2, 2.402_474_5e-1, 6.931_218e-1, 9.999_992e-1];

/// As [`ROUND`], and what then stands in the low bits is the integer and the bias of exponents.
const ROUND_BIASED: f32 = ROUND + 127.0;
/// Where the exponent's bits become zero.
const LEAST: f32 = -127.0 * std::f32::consts::LN_2;

/// As [`exp_each`] in fewer steps still, for what is to be rounded to half precision: relative error below 1e-5, and those of numbers
/// below -87.7 are zero.
#[inline(always)]
pub(crate) fn exp_to_round<const FMA: bool, const N: usize>(x: [f32; N]) -> [f32; N] {
    let (mut shifted, mut r, mut p) = (x, x, [EXP2[0]; N]);
    for v in 0..N {
        r[v] = if LEAST > x[v] { LEAST } else { x[v] };
        r[v] = if 88.0 < r[v] { 88.0 } else { r[v] };
        shifted[v] = r[v].madd::<FMA>(std::f32::consts::LOG2_E, ROUND_BIASED);
    }
    for v in 0..N {
        r[v] = r[v].madd::<FMA>(std::f32::consts::LOG2_E, ROUND_BIASED - shifted[v]);
    }
    for factor in &EXP2[1..] {
        for v in 0..N {
            p[v] = p[v].madd::<FMA>(r[v], *factor);
        }
    }
    for v in 0..N {
        p[v] *= f32::from_bits(shifted[v].to_bits() << 23);
    }
    p
}

/// The exponential: relative error below 2e-7, zero below -87, infinite above 88.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let (p, n) = clamped.exp_parts::<FMA>();
    let y = f32::from_bits(p.to_bits().wrapping_add((n as u32) << 23));
    let y = if x < -87.0 { 0.0 } else { y };
    let y = if x > 88.0 { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Job, dispatch};

    struct Exp<'a>(&'a mut [f32]);
    impl Job for Exp<'_> {
        type Out = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            for x in self.0 {
                *x = x.exp_lane::<FMA>();
            }
        }
    }

    /// Exponentials of several numbers, of which some are to be rounded.
    struct Each<'a>(&'a mut [f32], bool);
    impl Job for Each<'_> {
        type Out = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            for four in self.0.as_chunks_mut::<4>().0 {
                *four = if self.1 { exp_to_round::<FMA, 4>(*four) } else { exp_each::<FMA, 4>(*four) };
            }
        }
    }

    #[test]
    fn exponentials_of_several_numbers_are_those_of_each() {
        let mut xs: Vec<f32> = (-880..=880).map(|i| i as f32 * 0.1).collect();
        xs.extend([-0.0, 1e-30, f32::NEG_INFINITY, -1e30, f32::NAN, 1e30, f32::INFINITY]);
        for (to_round, tolerance) in [(false, 3e-7), (true, 1e-5)] {
            let (mut wide, mut narrow) = (xs.clone(), xs.clone());
            dispatch(Each(&mut wide, to_round));
            Each(&mut narrow, to_round).run::<false>();
            for (i, &x) in xs.iter().enumerate() {
                let want = if x < if to_round { -87.68 } else { -87.0 } { 0.0 } else { f64::from(x.min(88.0)).exp() };
                for got in [wide[i], narrow[i]] {
                    let near = (f64::from(got) - want).abs() <= tolerance * want;
                    assert!(if x.is_nan() { got.is_nan() } else { near }, "exp({x}) = {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn exponential_is_accurate() {
        let xs: Vec<f32> = (-8700..8800).map(|i| i as f32 * 0.01).collect();
        let mut wide = xs.clone();
        dispatch(Exp(&mut wide));
        let mut narrow = xs.clone();
        Exp(&mut narrow).run::<false>();
        for (i, &x) in xs.iter().enumerate() {
            let want = f64::from(x).exp();
            for got in [wide[i], narrow[i]] {
                assert!((f64::from(got) - want).abs() <= 3e-7 * want, "exp({x}) = {got}, not {want}");
            }
        }
        let mut ends = [f32::NEG_INFINITY, -1e30, 0.0, f32::INFINITY, f32::NAN];
        dispatch(Exp(&mut ends));
        assert_eq!(&ends[..4], &[0.0, 0.0, 1.0, f32::INFINITY]);
        assert!(ends[4].is_nan());
    }
}
