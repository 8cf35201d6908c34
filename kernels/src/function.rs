//! Elementwise functions of one operand and their derivatives, by the word that launches name them with.

use crate::math::Maths;

/// A function with up to two parameters.
pub(crate) trait Rule: Copy + Send + Sync {
    /// The function.
    fn value<T: Maths, const FMA: bool>(self, x: T, alpha: T, beta: T) -> T;
    /// Its derivative.
    fn slope<T: Maths, const FMA: bool>(self, x: T, alpha: T, beta: T) -> T;
}

/// Something to do with a function that is known only when it runs.
pub(crate) trait Use {
    /// Does it with `rule`.
    fn with(self, rule: impl Rule);
}

macro_rules! functions {
    ($($name:ident $word:literal: |$x:ident, $alpha:tt, $beta:tt| $value:expr, $slope:expr;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            impl Rule for $name {
                #[inline(always)]
                fn value<T: Maths, const FMA: bool>(self, $x: T, $alpha: T, $beta: T) -> T {
                    $value
                }
                #[inline(always)]
                fn slope<T: Maths, const FMA: bool>(self, $x: T, $alpha: T, $beta: T) -> T {
                    $slope
                }
            }
        )*

        /// Gives `then` the function called `word`.
        pub(crate) fn choose(word: &str, then: impl Use) {
            match word {
                $($word => then.with($name),)*
                _ => unreachable!("`{word}` is no elementwise function of real numbers"),
            }
        }

        /// The words of all functions.
        pub(crate) const WORDS: &[&str] = &[$($word),*];
    };
}

/// A number in the type of the function.
#[inline(always)]
fn c<T: Maths>(value: f64) -> T {
    T::of(value)
}

/// `yes` if `condition`, else `no`; both are computed.
#[inline(always)]
fn pick<T: Maths>(condition: bool, yes: T, no: T) -> T {
    if condition { yes } else { no }
}

/// Twice the argument of the hyperbolic tangent in GELU's approximation: `2 * sqrt(2 / pi) * (x + 0.044715 * x^3)`.
#[inline(always)]
fn twice_cubic<T: Maths>(x: T) -> T {
    x * (x * x * c(0.071_354_816_272_6) + c(1.595_769_121_605_730_7))
}

/// `(1 + exp(x))^2 - 1`, the numerator of the hyperbolic tangent of softplus.
#[inline(always)]
fn mish_part<T: Maths, const FMA: bool>(x: T) -> T {
    // Beyond 20 the tangent is one in both widths, and the power would overflow.
    let e = pick(x > c(20.0), c(20.0), x).exp_full::<FMA>();
    e * (e + c(2.0))
}

functions! {
    Neg "neg": |x, _, _| -x, { let _ = x; c(-1.0) };
    Abs "abs": |x, _, _| x.abs(), sign(x);
    Sign "sign": |x, _, _| sign(x), flat(x);
    Floor "floor": |x, _, _| x.floor(), flat(x);
    Ceil "ceil": |x, _, _| x.ceil(), flat(x);
    Round "round": |x, _, _| x.round_ties_even(), flat(x);
    Exp "exp": |x, _, _| x.exp_full::<FMA>(), x.exp_full::<FMA>();
    Log "log": |x, _, _| x.ln(), c::<T>(1.0) / x;
    Sqrt "sqrt": |x, _, _| x.sqrt(), c::<T>(0.5) / x.sqrt();
    Reciprocal "reciprocal": |x, _, _| c::<T>(1.0) / x, { let r = c::<T>(1.0) / x; -(r * r) };
    Sin "sin": |x, _, _| x.sin(), x.cos();
    Cos "cos": |x, _, _| x.cos(), -x.sin();
    Tan "tan": |x, _, _| x.tan(), { let t = x.tan(); t * t + c(1.0) };
    Asin "asin": |x, _, _| x.asin(), c::<T>(1.0) / ((c::<T>(1.0) - x) * (c::<T>(1.0) + x)).sqrt();
    Acos "acos": |x, _, _| x.acos(), c::<T>(-1.0) / ((c::<T>(1.0) - x) * (c::<T>(1.0) + x)).sqrt();
    Atan "atan": |x, _, _| x.atan(), c::<T>(1.0) / (x * x + c(1.0));
    Sinh "sinh": |x, _, _| x.sinh(), x.cosh();
    Cosh "cosh": |x, _, _| x.cosh(), x.sinh();
    Asinh "asinh": |x, _, _| x.asinh(), c::<T>(1.0) / (x * x + c(1.0)).sqrt();
    Acosh "acosh": |x, _, _| x.acosh(), c::<T>(1.0) / ((x - c(1.0)).sqrt() * (x + c(1.0)).sqrt());
    Atanh "atanh": |x, _, _| { let a = x.abs(); (c::<T>(0.5) * (c::<T>(2.0) * a / (c::<T>(1.0) - a)).ln_1p()).copysign(x) },
        c::<T>(1.0) / ((c::<T>(1.0) - x) * (c::<T>(1.0) + x));
    Tanh "tanh": |x, _, _| x.tanh::<FMA>(), c::<T>(4.0) * (c::<T>(2.0) * x).sigmoid_slope::<FMA>();
    Sigmoid "sigmoid": |x, _, _| x.sigmoid::<FMA>(), x.sigmoid_slope::<FMA>();
    Erf "erf": |x, _, _| x.erf::<FMA>(), c::<T>(std::f64::consts::FRAC_2_SQRT_PI) * (-(x * x)).exp_full::<FMA>();
    Relu "relu": |x, _, _| pick(x < c(0.0), c(0.0), x), step(x, c(0.0));
    LeakyRelu "leaky_relu": |x, alpha, _| pick(x < c(0.0), alpha * x, x), step(x, alpha);
    Elu "elu": |x, alpha, _| if x < c(0.0) { alpha * x.exp_m1() } else { x },
        pick(x < c(0.0), alpha * x.exp_full::<FMA>(), step(x, alpha));
    Celu "celu": |x, alpha, _| if x < c(0.0) { alpha * (x / alpha).exp_m1() } else { x },
        pick(x < c(0.0), (x / alpha).exp_full::<FMA>(), step(x, c(1.0)));
    Selu "selu": |x, alpha, beta| beta * if x < c(0.0) { alpha * x.exp_m1() } else { x },
        beta * pick(x < c(0.0), alpha * x.exp_full::<FMA>(), step(x, alpha));
    Softplus "softplus": |x, _, _| x.max(c(0.0)) + nan_of(x, (-x.abs()).exp_full::<FMA>().ln_1p()), x.sigmoid::<FMA>();
    Softsign "softsign": |x, _, _| pick(x.is_infinite(), sign(x), x / (x.abs() + c(1.0))),
        { let d = x.abs() + c(1.0); c::<T>(1.0) / d / d };
    HardSigmoid "hard_sigmoid": |x, alpha, beta| clamp(alpha * x + beta, c(0.0), c(1.0)),
        { let y = alpha * x + beta; pick(y > c(0.0) && y < c(1.0), alpha, flat(x)) };
    HardSwish "hard_swish": |x, _, _| x.gate(clamp(x * c(1.0 / 6.0) + c(0.5), c(0.0), c(1.0))),
        pick(x > c(-3.0), pick(x < c(3.0), x * c(1.0 / 3.0) + c(0.5), nan_of(x, c(1.0))), nan_of(x, c(0.0)));
    Silu "silu": |x, _, _| x.gate(x.sigmoid::<FMA>()), x.sigmoid::<FMA>() + x.gate(x.sigmoid_slope::<FMA>());
    Mish "mish": |x, _, _| { let n = mish_part::<T, FMA>(x); x.gate(n / (n + c(2.0))) }, {
        let n = mish_part::<T, FMA>(x);
        let d = c::<T>(1.0) / (n + c(2.0));
        n * d + x.gate(c::<T>(4.0) * (n + c(1.0)) * d * d * x.sigmoid::<FMA>() * pick(x > c(40.0), c(0.0), c(1.0)))
    };
    Gelu "gelu": |x, _, _| x.gate(x.normal::<FMA>()), x.normal::<FMA>() + x.gate(x.density::<FMA>());
    GeluTanh "gelu_tanh": |x, _, _| x.gate(twice_cubic(x).sigmoid::<FMA>()), {
        let u = twice_cubic(x);
        let du = x * (x * x * c(3.0 * 0.071_354_816_272_6) + c(1.595_769_121_605_730_7));
        u.sigmoid::<FMA>() + du.gate(u.sigmoid_slope::<FMA>())
    };
    QuickGelu "quick_gelu": |x, alpha, _| x.gate((alpha * x).sigmoid::<FMA>()),
        (alpha * x).sigmoid::<FMA>() + alpha * x.gate((alpha * x).sigmoid_slope::<FMA>());
    Clip "clip": |x, alpha, beta| clamp(x, alpha, beta),
        pick(x >= alpha && x <= beta, c(1.0), flat(x));
}

/// 1, -1, or what is neither positive nor negative itself.
#[inline(always)]
fn sign<T: Maths>(x: T) -> T {
    pick(x > c(0.0), c(1.0), pick(x < c(0.0), c(-1.0), x))
}

/// Zero, or NaN for NaN.
#[inline(always)]
fn flat<T: Maths>(x: T) -> T {
    nan_of(x, c(0.0))
}

/// `value`, or NaN where `x` is NaN.
#[inline(always)]
fn nan_of<T: Maths>(x: T, value: T) -> T {
    pick(x.is_nan(), x, value)
}

/// 1 where `x` is positive, else `otherwise`.
#[inline(always)]
fn step<T: Maths>(x: T, otherwise: T) -> T {
    pick(x > c(0.0), c(1.0), nan_of(x, otherwise))
}

/// `x` within `low..=high`; `high` wins if they are in the wrong order.
#[inline(always)]
fn clamp<T: Maths>(x: T, low: T, high: T) -> T {
    let x = pick(x < low, low, x);
    pick(x > high, high, x)
}
