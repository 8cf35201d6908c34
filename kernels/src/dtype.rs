//! Element types that kernels compute on, and the Rust types that hold them.

use std::fmt;

/// Element type of a buffer.
///
/// Of half-precision types only `Bf16` is met by kernels, and only by those that multiply by a weight or convert: nothing is computed
/// in it.
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
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::I16 | DType::U16 | DType::Bf16 => 2,
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
        }
    }

    /// The inverse of [`DType::name`].
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|d| d.name() == name)
    }

    /// The type in which values of this type are computed with.
    pub const fn computed(self) -> DType {
        match self {
            DType::Bf16 => DType::F32,
            other => other,
        }
    }

    /// Whether values of this type are real numbers that gradients can flow through.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64)
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
elements!(f32: F32, f64: F64, i64: I64, i32: I32, i16: I16, i8: I8, u64: U64, u32: U32, u16: U16, u8: U8 | Bool, half::bf16: Bf16);

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
    /// That number in half precision.
    fn half(self) -> half::bf16;
    /// The same memory, if it is stored as it is computed with.
    fn plain(stored: &[Self]) -> Option<&[T]>;
}

impl<T: Float> Stored<T> for T {
    #[inline(always)]
    fn wide(self) -> T {
        self
    }
    #[inline(always)]
    fn half(self) -> half::bf16 {
        narrow(self.f64() as f32)
    }
    fn plain(stored: &[T]) -> Option<&[T]> {
        Some(stored)
    }
}

impl Stored<f32> for half::bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn half(self) -> half::bf16 {
        self
    }
    fn plain(_: &[half::bf16]) -> Option<&[f32]> {
        None
    }
}

/// Rounds to the nearest bfloat16, ties to even, in a form that compilers can vectorise.
#[inline(always)]
pub fn narrow(value: f32) -> half::bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A NaN stays one.
    half::bf16::from_bits(if value.is_nan() { (bits >> 16 | 0x40) as u16 } else { rounded as u16 })
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
