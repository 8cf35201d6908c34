//! Elementary functions for vector loops: branch-free in `f32`, as precise as the standard library in `f64`.

use crate::simd::{ExpParts, Real};

/// A method that calls the inherent one of the same name.
macro_rules! forward {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Floats with elementary functions. `FMA` is that of the [`Job`](crate::simd::Job) that asks.
        pub(crate) trait Maths: Real {
            $($(#[$doc])* fn $name(self) -> Self;)*
            /// This magnitude with the sign of `sign`.
            fn copysign(self, sign: Self) -> Self;
            /// Whether this is not a number.
            fn is_nan(self) -> bool;
            /// Whether this is an infinity.
            fn is_infinite(self) -> bool;
            /// The exponential over the whole range, subnormal results included.
            fn exp_full<const FMA: bool>(self) -> Self;
            /// The hyperbolic tangent.
            fn tanh<const FMA: bool>(self) -> Self;
            /// The error function.
            fn erf<const FMA: bool>(self) -> Self;
            /// The density of the normal distribution.
            fn density<const FMA: bool>(self) -> Self;
            /// The normal distribution function, with a small relative error on both sides.
            fn normal<const FMA: bool>(self) -> Self;

            /// `1 / (1 + exp(-x))`, with a small relative error on both sides.
            #[inline(always)]
            fn sigmoid<const FMA: bool>(self) -> Self {
                let one = Self::of(1.0);
                let e = (-self.abs()).exp_full::<FMA>();
                (if self < Self::of(0.0) { e } else { one }) / (one + e)
            }

            /// The derivative of the sigmoid.
            #[inline(always)]
            fn sigmoid_slope<const FMA: bool>(self) -> Self {
                let e = (-self.abs()).exp_full::<FMA>();
                let d = Self::of(1.0) + e;
                e / (d * d)
            }

            /// `self * factor`, where a factor of zero wins over infinity.
            #[inline(always)]
            fn gate(self, factor: Self) -> Self {
                if factor == Self::of(0.0) { factor.copysign(self) } else { self * factor }
            }
        }
        impl Maths for f32 {
            $(#[inline(always)] fn $name(self) -> f32 { self.$name() })*
            #[inline(always)]
            fn copysign(self, sign: f32) -> f32 { self.copysign(sign) }
            #[inline(always)]
            fn is_nan(self) -> bool { self.is_nan() }
            #[inline(always)]
            fn is_infinite(self) -> bool { self.is_infinite() }
            #[inline(always)]
            fn exp_full<const FMA: bool>(self) -> f32 { exp::<FMA>(self) }
            #[inline(always)]
            fn tanh<const FMA: bool>(self) -> f32 { tanh::<FMA>(self) }
            #[inline(always)]
            fn erf<const FMA: bool>(self) -> f32 { erf::<FMA>(self) }
            #[inline(always)]
            fn density<const FMA: bool>(self) -> f32 { density::<FMA>(self) }
            #[inline(always)]
            fn normal<const FMA: bool>(self) -> f32 { normal::<FMA>(self) }
        }
        impl Maths for f64 {
            $(#[inline(always)] fn $name(self) -> f64 { self.$name() })*
            #[inline(always)]
            fn copysign(self, sign: f64) -> f64 { self.copysign(sign) }
            #[inline(always)]
            fn is_nan(self) -> bool { self.is_nan() }
            #[inline(always)]
            fn is_infinite(self) -> bool { self.is_infinite() }
            #[inline(always)]
            fn exp_full<const FMA: bool>(self) -> f64 { self.exp() }
            #[inline(always)]
            fn tanh<const FMA: bool>(self) -> f64 { self.tanh() }
            #[inline(always)]
            fn erf<const FMA: bool>(self) -> f64 { libm::erf(self) }
            #[inline(always)]
            fn density<const FMA: bool>(self) -> f64 { 0.398_942_280_401_432_7 * (self * self * -0.5).exp() }
            #[inline(always)]
            fn normal<const FMA: bool>(self) -> f64 { 0.5 * libm::erfc(self * -std::f64::consts::FRAC_1_SQRT_2) }
        }
    };
}
forward!(
    /// Absolute value.
    abs,
    /// Next integer below.
    floor,
    /// Next integer above.
    ceil,
    /// Nearest integer, the even one of two.
    round_ties_even,
    /// Natural logarithm.
    ln,
    /// `ln(1 + x)`.
    ln_1p,
    /// `exp(x) - 1`.
    exp_m1,
    /// Sine.
    sin,
    /// Cosine.
    cos,
    /// Tangent.
    tan,
    /// Inverse sine.
    asin,
    /// Inverse cosine.
    acos,
    /// Inverse tangent.
    atan,
    /// Hyperbolic sine.
    sinh,
    /// Hyperbolic cosine.
    cosh,
    /// Inverse hyperbolic sine.
    asinh,
    /// Inverse hyperbolic cosine.
    acosh,
);

/// Value of the polynomial with the coefficients `c`, highest first.
#[inline(always)]
fn horner<const FMA: bool, const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[0];
    for &c in &c[1..] {
        sum = sum.madd::<FMA>(x, c);
    }
    sum
}

#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    // Beyond these ends the result is zero or infinity by rounding; between them the exponent may exceed what one factor can
    // hold, so it is applied in two.
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let (p, n) = clamped.exp_parts::<FMA>();
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(half) * power(n.wrapping_sub(half))
}

#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    let size = x.abs();
    let z = x * x;
    let near = horner::<FMA, 5>(z, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
    let near = (near * z).madd::<FMA>(x, x);
    let far = 1.0 - 2.0 / (exp::<FMA>(2.0 * size) + 1.0);
    (if size < 0.625 { near } else { far }).copysign(x)
}

/// The error function near zero.
#[inline(always)]
fn erf_near<const FMA: bool>(x: f32) -> f32 {
    let c = [
        7.853_861e-5,
        -8.010_194e-4,
        5.188_327_5e-3,
        -2.685_381_3e-2,
        1.128_358_5e-1,
        -3.761_262_6e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    x * horner::<FMA, 7>(x * x, c)
}

/// The complementary error function of a number that is not negative.
#[inline(always)]
fn erfc_far<const FMA: bool>(x: f32) -> f32 {
    let t = 1.0 / 0.5_f32.madd::<FMA>(x, 1.0);
    let c = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ];
    // The exponent is large and its rounding would show, so the square is split: `head` has few enough bits to be squared
    // exactly.
    let head = f32::from_bits(x.to_bits() & 0xffff_f000);
    let rest = (head - x).madd::<FMA>(head + x, horner::<FMA, 10>(t, c));
    let y = t * exp::<FMA>(-head * head) * exp::<FMA>(rest);
    if x > 11.0 { 0.0 } else { y }
}

#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let size = x.abs();
    let y = if size < 1.0 { erf_near::<FMA>(x) } else { (1.0 - erfc_far::<FMA>(size)).copysign(x) };
    if x.is_nan() { x } else { y }
}

/// Numbers of this magnitude have a density of zero in single precision.
const FAR: f32 = 15.0;

#[inline(always)]
fn density<const FMA: bool>(x: f32) -> f32 {
    let size = if x.abs() > FAR { FAR } else { x.abs() };
    let square = size * size;
    // The exponent is large and its rounding would show.
    let lost = if FMA {
        size.mul_add(size, -square)
    } else {
        // `head` has few enough bits to be squared exactly.
        let head = f32::from_bits(size.to_bits() & 0xffff_f000);
        head * head - square + (size - head) * (size + head)
    };
    let e = exp::<FMA>(-0.5 * square);
    0.398_942_3 * (-0.5 * lost).madd::<FMA>(e, e)
}

#[inline(always)]
fn normal<const FMA: bool>(x: f32) -> f32 {
    let size = if x.abs() > FAR { FAR } else { x.abs() };
    let t = 1.0 / 0.35_f32.madd::<FMA>(size, 1.0);
    // Of Mills' ratio, which is what the distribution has beyond a number by the density there, divided by `t`.
    let c = [
        -0.073_087_96,
        0.361_031_9,
        -0.641_293_1,
        0.399_355_03,
        -0.058_184_59,
        0.264_580_82,
        0.300_347_44,
        0.350_585_84,
        0.349_978_72,
    ];
    let beyond = t * horner::<FMA, 9>(t, c) * density::<FMA>(x);
    if x < 0.0 { beyond } else { 1.0 - beyond }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Job, dispatch};

    struct Apply<'a>(&'a mut [[f32; 6]]);
    impl Job for Apply<'_> {
        type Out = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            for row in self.0 {
                let x = row[0];
                *row = [
                    exp::<FMA>(x),
                    tanh::<FMA>(x),
                    erf::<FMA>(x),
                    x.normal::<FMA>(),
                    x.sigmoid::<FMA>(),
                    x.density::<FMA>(),
                ];
            }
        }
    }

    /// Largest distance of `got` from `want` in units of the last place of `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let near = (want as f32).abs().max(f32::MIN_POSITIVE);
        (f64::from(got) - want).abs() / f64::from(near.next_up() - near)
    }

    #[test]
    fn accurate_with_and_without_fused_products() {
        let mut xs: Vec<f32> = (-52_000..45_000).map(|i| i as f32 * 0.002).collect();
        xs.extend((0..4_000).flat_map(|i| [1e-6, -1e-6, 1.0, -1.0].map(|s| s * i as f32 * 1e-3)));
        let start: Vec<[f32; 6]> = xs.iter().map(|&x| [x; 6]).collect();
        let (mut fused, mut plain) = (start.clone(), start);
        dispatch(Apply(&mut fused));
        Apply(&mut plain).run::<false>();
        for (i, &narrow) in xs.iter().enumerate() {
            let x = f64::from(narrow);
            for [e, t, f, n, s, d] in [fused[i], plain[i]] {
                if narrow < 88.72 {
                    assert!(ulps(e, x.exp()) <= 4.0, "exp({x}) = {e}");
                }
                assert!((f64::from(t) - x.tanh()).abs() <= 3e-7 * x.tanh().abs(), "tanh({x}) = {t}");
                assert!((f64::from(f) - libm::erf(x)).abs() <= 1.2e-7, "erf({x}) = {f}");
                assert!((f64::from(f) - libm::erf(x)).abs() <= 5e-7 * libm::erf(x).abs(), "erf({x}) = {f}");
                for (got, want) in [(n, x.normal::<true>()), (d, x.density::<true>())] {
                    assert!((f64::from(got) - want).abs() <= 1e-6 * want + 1e-43, "{got} at {x}, not {want}");
                }
                assert!(ulps(s, 1.0 / (1.0 + (-x).exp())) <= 6.0, "sigmoid({x}) = {s}");
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        let ends = [f32::NEG_INFINITY, -1e30, -1e4, -0.0, 0.0, 1e4, 1e30, f32::INFINITY];
        let mut got: Vec<[f32; 6]> = ends.iter().map(|&x| [x; 6]).collect();
        got.push([f32::NAN; 6]);
        dispatch(Apply(&mut got));
        for (i, x) in ends.into_iter().enumerate() {
            let want = match x {
                x if x < 0.0 => [0.0, -1.0, -1.0, 0.0, 0.0, 0.0],
                0.0 => [1.0, 0.0, 0.0, 0.5, 0.5, 0.398_942_3],
                _ => [f32::INFINITY, 1.0, 1.0, 1.0, 1.0, 0.0],
            };
            assert_eq!(got[i], want, "{x}");
        }
        assert!(got[3][1].is_sign_negative() && got[3][2].is_sign_negative());
        assert!(got[8].iter().all(|v| v.is_nan()));
        assert_eq!(f32::NEG_INFINITY.gate(0.0).to_bits(), (-0.0_f32).to_bits());
    }
}
