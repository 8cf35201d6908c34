//! Element types that kernels compute on, and the Rust types that hold them.

use half::{bf16, f16};
use std::fmt;

/// Element type of a buffer.
///
/// The half-precision types are how numbers are stored, and met only by kernels that say so: nothing is computed in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// Truth value, one byte, 0 or 1.
    Bool,
    /// The upper half of `F32`: what weights and kept values are stored in to save memory.
    Bf16,
    /// IEEE half precision, for the same: eight times as exact as `Bf16`, and no larger than 65504.
    F16,
}

impl DType {
    /// All element types, in the order of their declaration.
    pub const ALL: &[DType] = &[
        DType::F32,
        DType::F64,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::Bool,
        DType::Bf16,
        DType::F16,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::I16 | DType::U16 | DType::Bf16 | DType::F16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// The name used in the text forms: `f32`, `i64`, `bool`, ...
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U64 => "u64",
            DType::U32 => "u32",
            DType::U16 => "u16",
            DType::U8 => "u8",
            DType::Bool => "bool",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
        }
    }

    /// The inverse of [`DType::name`].
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|d| d.name() == name)
    }

    /// The type in which values of this type are computed with.
    pub const fn computed(self) -> DType {
        match self {
            DType::Bf16 | DType::F16 => DType::F32,
            other => other,
        }
    }

    /// Whether values of this type are real numbers that gradients can flow through.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64)
    }

    /// Whether this is a type of half precision: real numbers are stored in it, and computed with in another.
    pub const fn is_half(self) -> bool {
        matches!(self, DType::Bf16 | DType::F16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that elements of a buffer are read as.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + PartialOrd + fmt::Debug {
    /// Whether a buffer of type `dtype` may be viewed as this type (`u8` also views `Bool`).
    fn views(dtype: DType) -> bool;
}

macro_rules! elements {
    ($($t:ty: $($d:ident)|+),* $(,)?) => {$(
        impl Element for $t {
            fn views(dtype: DType) -> bool {
                matches!(dtype, $(DType::$d)|+)
            }
        }
    )*};
}
elements!(f32: F32, f64: F64, i64: I64, i32: I32, i16: I16, i8: I8, u64: U64, u32: U32, u16: U16, u8: U8 | Bool);
elements!(bf16: Bf16, f16: F16);

/// Floating-point elements, with the functions that kernels written once for both widths need.
pub trait Float:
    Element
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::MulAssign
    + std::iter::Sum
    + Default
{
    /// Rounds a double to this type.
    fn of(value: f64) -> Self;
    /// Widens to double.
    fn f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Exponential function.
    fn exp(self) -> Self;
    /// Larger of two numbers.
    fn max(self, other: Self) -> Self;
}

macro_rules! floats {
    ($($t:ty),*) => {$(
        impl Float for $t {
            #[inline(always)]
            fn of(value: f64) -> Self { value as $t }
            #[inline(always)]
            fn f64(self) -> f64 { f64::from(self) }
            #[inline(always)]
            fn sqrt(self) -> Self { <$t>::sqrt(self) }
            #[inline(always)]
            fn exp(self) -> Self { <$t>::exp(self) }
            #[inline(always)]
            fn max(self, other: Self) -> Self { <$t>::max(self, other) }
        }
    )*};
}
floats!(f32, f64);

/// An element type that weights are stored in, for arithmetic in `T`.
pub trait Stored<T>: Element {
    /// The number it stands for.
    fn wide(self) -> T;
    /// What stands for a number: the nearest, of two as near the one whose last bit is zero. NaN stays NaN.
    fn narrow(value: T) -> Self;
    /// The number that it stands for in bfloat16, as products of half precision take it.
    fn half(self) -> bf16;
    /// The same memory, if it is stored as it is computed with.
    fn plain(stored: &[Self]) -> Option<&[T]>;
}

impl<T: Float> Stored<T> for T {
    #[inline(always)]
    fn wide(self) -> T {
        self
    }
    #[inline(always)]
    fn narrow(value: T) -> T {
        value
    }
    #[inline(always)]
    fn half(self) -> bf16 {
        bf16::narrow(self.f64() as f32)
    }
    fn plain(stored: &[T]) -> Option<&[T]> {
        Some(stored)
    }
}

// The conversions are in forms that compilers can vectorise.
impl Stored<f32> for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        bf16::from_bits(if value.is_nan() { (bits >> 16 | 0x40) as u16 } else { rounded as u16 })
    }
    #[inline(always)]
    fn half(self) -> bf16 {
        self
    }
    fn plain(_: &[bf16]) -> Option<&[f32]> {
        None
    }
}

/// Numbers beyond the largest become the largest, with their sign; infinity stays infinity.
impl Stored<f32> for f16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        // Exponents count from another place. Those of infinity and NaN are the largest of either type.
        let normal = magnitude + (BIAS << 23) + if magnitude >= 31 << 23 { BIAS << 23 } else { 0 };
        // Without a leading one: with a one before them the same bits stand for 2^-14 more.
        let small = f32::from_bits(magnitude + ((BIAS + 1) << 23)) - f32::from_bits((BIAS + 1) << 23);
        let wide = if magnitude < 1 << 23 { small.to_bits() } else { normal };
        f32::from_bits(wide | (bits & 0x8000) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> f16 {
        const MOST: u32 = 65504_f32.to_bits();
        const INFINITE: u32 = f32::INFINITY.to_bits();
        let sign = value.to_bits() >> 16 & 0x8000;
        let magnitude = value.to_bits() & 0x7fff_ffff;
        let within = if magnitude > MOST { MOST } else { magnitude };
        let normal = within.wrapping_sub(BIAS << 23).wrapping_add(0xfff + (within >> 13 & 1)) >> 13;
        // Below 2^-14, the sum with a half is rounded to a multiple of the smallest number, which its last bits count.
        let small = (f32::from_bits(within) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
        let finite = if within < (BIAS + 1) << 23 { small } else { normal };
        let special = 0x7c00 | if magnitude > INFINITE { magnitude >> 13 & 0x3ff | 0x200 } else { 0 };
        f16::from_bits((sign | if magnitude >= INFINITE { special } else { finite }) as u16)
    }
    #[inline(always)]
    fn half(self) -> bf16 {
        bf16::narrow(self.wide())
    }
    fn plain(_: &[f16]) -> Option<&[f32]> {
        None
    }
}

/// What exponents of single precision exceed those of IEEE half precision by.
const BIAS: u32 = 127 - 15;

/// Calls a generic function for the type that numbers in single precision are stored in, which a run-time [`DType`] says:
/// `for_stored!(dtype, S => f::<S>(..))`.
#[macro_export]
macro_rules! for_stored {
    ($dtype:expr, $s:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F16 => {
                type $s = half::f16;
                $body
            }
            other => $crate::for_rounded_single!(other, $s => $body),
        }
    };
}

/// Calls a generic function for the type of numbers that may be rounded to bfloat16, and the type of arithmetic with them:
/// `for_rounded!(dtype, T, S => f::<T, S>(..))`.
#[macro_export]
macro_rules! for_rounded {
    ($dtype:expr, $t:ident, $s:ident => $body:expr) => {
        match $dtype {
            $crate::DType::Bf16 => {
                type $t = f32;
                type $s = half::bf16;
                $body
            }
            float => $crate::for_float!(float, $t => {
                type $s = $t;
                $body
            }),
        }
    };
}

/// Calls a generic function for the types of two arguments that may be rounded to bfloat16, each by itself, and the type of arithmetic with
/// them: `for_rounded_pair!(x, y, T, X, Y => f::<T, X, Y>(..))`.
#[macro_export]
macro_rules! for_rounded_pair {
    ($first:expr, $second:expr, $t:ident, $x:ident, $y:ident => $body:expr) => {
        match $first {
            $crate::DType::F64 => {
                type $t = f64;
                type $x = f64;
                type $y = f64;
                $body
            }
            first => $crate::for_rounded_single!(first, $x => {
                $crate::for_rounded_single!($second, $y => {
                    type $t = f32;
                    $body
                })
            }),
        }
    };
}

/// Calls a generic function for the type of numbers in single precision that may be rounded to bfloat16:
/// `for_rounded_single!(dtype, S => f::<S>(..))`.
#[macro_export]
macro_rules! for_rounded_single {
    ($dtype:expr, $s:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $s = f32;
                $body
            }
            $crate::DType::Bf16 => {
                type $s = half::bf16;
                $body
            }
            other => unreachable!("the verifier admits no such type here, found {other}"),
        }
    };
}

/// Calls a generic function for the float type of a run-time [`DType`]: `for_float!(dtype, T => f::<T>(..))`.
#[macro_export]
macro_rules! for_float {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            other => unreachable!("the verifier admits only floats here, found {other}"),
        }
    };
}

/// Calls a generic function for the integer type of a run-time [`DType`]: `for_integer!(dtype, T => f::<T>(..))`.
#[macro_export]
macro_rules! for_integer {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::I64 => {
                type $t = i64;
                $body
            }
            $crate::DType::I32 => {
                type $t = i32;
                $body
            }
            $crate::DType::I16 => {
                type $t = i16;
                $body
            }
            $crate::DType::I8 => {
                type $t = i8;
                $body
            }
            $crate::DType::U64 => {
                type $t = u64;
                $body
            }
            $crate::DType::U32 => {
                type $t = u32;
                $body
            }
            $crate::DType::U16 => {
                type $t = u16;
                $body
            }
            $crate::DType::U8 | $crate::DType::Bool => {
                type $t = u8;
                $body
            }
            other => unreachable!("the verifier admits only integers here, found {other}"),
        }
    };
}

/// Calls a generic function for the element type of a run-time [`DType`]: `for_element!(dtype, T => f::<T>(..))`.
#[macro_export]
macro_rules! for_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            integer => $crate::for_integer!(integer, $t => $body),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_to_its_number_and_narrowed_to_itself() {
        for bits in 0..=u16::MAX {
            let (x, y) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(x.wide().to_bits() == x.to_f32().to_bits() || x.is_nan() && x.wide().is_nan(), "{bits:#06x}");
            assert!(f16::narrow(x.wide()) == x || x.is_nan() && f16::narrow(x.wide()).is_nan());
            assert_eq!(y.wide().to_bits() >> 16, u32::from(bits));
            assert!(bf16::narrow(y.wide()) == y || y.is_nan() && bf16::narrow(y.wide()).is_nan());
        }
    }

    #[test]
    fn numbers_are_narrowed_to_the_nearest_half_within_its_range() {
        let agree = |value: f32| {
            let (got, want) = (f16::narrow(value), f16::from_f32(value));
            let want = if value.is_finite() && want.is_infinite() { f16::MAX.copysign(want) } else { want };
            assert_eq!(got.to_bits(), want.to_bits(), "{value:e}");
        };
        // Around each half, each middle between two, and what rounds to either of them.
        for bits in 0..f16::INFINITY.to_bits() {
            let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            let middle = if high.is_finite() { f32::midpoint(low, high) } else { 65520.0 };
            for value in [low, middle] {
                for near in [value.next_down(), value, value.next_up()] {
                    agree(near);
                    agree(-near);
                }
            }
        }
        for value in [1e-45, 1e-38, 65535.9, 65536.0, 1e5, 3e38, f32::MAX, f32::INFINITY] {
            agree(value);
            agree(-value);
        }
        assert!(f16::narrow(f32::NAN).is_nan() && f16::narrow(-f32::NAN).is_nan());
        // A NaN whose payload lies in bits that are lost.
        assert!(f16::narrow(f32::from_bits(0x7f80_0001)).is_nan());
    }
}
