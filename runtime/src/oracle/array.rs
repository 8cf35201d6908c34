//! Arrays as they go into and come out of ONNX Runtime.

use std::fmt;

use ort::session::SessionInputValue;
use ort::value::{DynValue, PrimitiveTensorElementType, Shape, Tensor, TensorElementType, ValueType};

use super::OracleError;

/// Element types of the arrays that ONNX Runtime takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OracleType {
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
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
}

impl OracleType {
    /// All element types, in the order of their declaration.
    pub const ALL: &[OracleType] = &[
        OracleType::F32,
        OracleType::F64,
        OracleType::F16,
        OracleType::BF16,
        OracleType::I64,
        OracleType::I32,
        OracleType::I16,
        OracleType::I8,
        OracleType::U64,
        OracleType::U32,
        OracleType::U16,
        OracleType::U8,
        OracleType::Bool,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            OracleType::F64 | OracleType::I64 | OracleType::U64 => 8,
            OracleType::F32 | OracleType::I32 | OracleType::U32 => 4,
            OracleType::F16 | OracleType::BF16 | OracleType::I16 | OracleType::U16 => 2,
            OracleType::I8 | OracleType::U8 | OracleType::Bool => 1,
        }
    }

    /// The name used in messages: `f32`, `bf16`, `bool`, ...
    pub const fn name(self) -> &'static str {
        match self {
            OracleType::F32 => "f32",
            OracleType::F64 => "f64",
            OracleType::F16 => "f16",
            OracleType::BF16 => "bf16",
            OracleType::I64 => "i64",
            OracleType::I32 => "i32",
            OracleType::I16 => "i16",
            OracleType::I8 => "i8",
            OracleType::U64 => "u64",
            OracleType::U32 => "u32",
            OracleType::U16 => "u16",
            OracleType::U8 => "u8",
            OracleType::Bool => "bool",
        }
    }

    /// The number of the type in `TensorProto.DataType`.
    pub const fn onnx(self) -> i32 {
        match self {
            OracleType::F32 => 1,
            OracleType::U8 => 2,
            OracleType::I8 => 3,
            OracleType::U16 => 4,
            OracleType::I16 => 5,
            OracleType::I32 => 6,
            OracleType::I64 => 7,
            OracleType::Bool => 9,
            OracleType::F16 => 10,
            OracleType::F64 => 11,
            OracleType::U32 => 12,
            OracleType::U64 => 13,
            OracleType::BF16 => 16,
        }
    }

    /// The inverse of [`OracleType::onnx`].
    pub fn from_onnx(number: i32) -> Option<OracleType> {
        OracleType::ALL.iter().copied().find(|t| t.onnx() == number)
    }

    pub(super) const fn from_ort(ty: TensorElementType) -> Option<OracleType> {
        Some(match ty {
            TensorElementType::Float32 => OracleType::F32,
            TensorElementType::Float64 => OracleType::F64,
            TensorElementType::Float16 => OracleType::F16,
            TensorElementType::Bfloat16 => OracleType::BF16,
            TensorElementType::Int64 => OracleType::I64,
            TensorElementType::Int32 => OracleType::I32,
            TensorElementType::Int16 => OracleType::I16,
            TensorElementType::Int8 => OracleType::I8,
            TensorElementType::Uint64 => OracleType::U64,
            TensorElementType::Uint32 => OracleType::U32,
            TensorElementType::Uint16 => OracleType::U16,
            TensorElementType::Uint8 => OracleType::U8,
            TensorElementType::Bool => OracleType::Bool,
            _ => return None,
        })
    }
}

impl fmt::Display for OracleType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dense array: little-endian elements, contiguous, last dimension fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Element type.
    pub dtype: OracleType,
    /// Extent of every dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub bytes: Vec<u8>,
}

impl Array {
    /// Bytes that the type and the shape call for, or `None` where the number does not fit.
    pub fn expected_len(&self) -> Option<usize> {
        // A zero extent makes the array empty however large the others are, but ONNX Runtime multiplies them in order,
        // so the whole product has to fit.
        let count = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
        i64::try_from(count.checked_mul(self.dtype.size())?).ok()?;
        let count = if self.shape.contains(&0) { 0 } else { count };
        Some(count * self.dtype.size())
    }

    /// The array as an input value. `name` is for messages.
    pub(super) fn to_value(&self, name: &str) -> Result<SessionInputValue<'static>, OracleError> {
        let expected = self.expected_len();
        if expected != Some(self.bytes.len()) {
            return Err(OracleError::Length {
                name: name.to_owned(),
                dtype: self.dtype,
                shape: self.shape.clone(),
                expected: expected.map_or_else(|| "more than can be held".to_owned(), |n| n.to_string()),
                actual: self.bytes.len(),
            });
        }
        match self.dtype {
            OracleType::F32 => self.pods::<f32>(),
            OracleType::F64 => self.pods::<f64>(),
            OracleType::F16 => self.pods::<half::f16>(),
            OracleType::BF16 => self.pods::<half::bf16>(),
            OracleType::I64 => self.pods::<i64>(),
            OracleType::I32 => self.pods::<i32>(),
            OracleType::I16 => self.pods::<i16>(),
            OracleType::I8 => self.pods::<i8>(),
            OracleType::U64 => self.pods::<u64>(),
            OracleType::U32 => self.pods::<u32>(),
            OracleType::U16 => self.pods::<u16>(),
            OracleType::U8 => self.pods::<u8>(),
            OracleType::Bool => self.value(self.bytes.iter().map(|&b| b != 0).collect::<Vec<bool>>()),
        }
        .map_err(|e| OracleError::Run(format!("input {name:?}: {}", e.message())))
    }

    fn pods<T>(&self) -> ort::Result<SessionInputValue<'static>>
    where
        T: PrimitiveTensorElementType + bytemuck::Pod + fmt::Debug + 'static,
    {
        self.value(bytemuck::pod_collect_to_vec::<u8, T>(&self.bytes))
    }

    fn value<T>(&self, elements: Vec<T>) -> ort::Result<SessionInputValue<'static>>
    where
        T: PrimitiveTensorElementType + Clone + fmt::Debug + 'static,
    {
        Ok(Tensor::from_array((self.shape.clone(), elements))?.into())
    }

    /// Copies an output value. `name` is for messages.
    pub(super) fn from_value(name: &str, value: &DynValue) -> Result<Array, OracleError> {
        let other = |actual: String| OracleError::OutputType { name: name.to_owned(), actual };
        let ValueType::Tensor { ty, .. } = value.dtype() else {
            return Err(other(value.dtype().to_string()));
        };
        let Some(dtype) = OracleType::from_ort(*ty) else {
            return Err(other(format!("a tensor of {ty}")));
        };
        let (shape, bytes) = match dtype {
            OracleType::F32 => extract::<f32>(value),
            OracleType::F64 => extract::<f64>(value),
            OracleType::F16 => extract::<half::f16>(value),
            OracleType::BF16 => extract::<half::bf16>(value),
            OracleType::I64 => extract::<i64>(value),
            OracleType::I32 => extract::<i32>(value),
            OracleType::I16 => extract::<i16>(value),
            OracleType::I8 => extract::<i8>(value),
            OracleType::U64 => extract::<u64>(value),
            OracleType::U32 => extract::<u32>(value),
            OracleType::U16 => extract::<u16>(value),
            OracleType::U8 => extract::<u8>(value),
            OracleType::Bool => value
                .try_extract_tensor::<bool>()
                .map(|(shape, elements)| (shape, elements.iter().map(|&b| u8::from(b)).collect())),
        }
        .map_err(|e| OracleError::Run(format!("output {name:?}: {}", e.message())))?;
        let shape = shape
            .iter()
            .map(|&d| usize::try_from(d))
            .collect::<Result<_, _>>()
            .map_err(|_| other(format!("a tensor of shape {shape:?}")))?;
        Ok(Array { dtype, shape, bytes })
    }
}

fn extract<T>(value: &DynValue) -> ort::Result<(&Shape, Vec<u8>)>
where
    T: PrimitiveTensorElementType + bytemuck::Pod,
{
    let (shape, elements) = value.try_extract_tensor::<T>()?;
    Ok((shape, bytemuck::cast_slice(elements).to_vec()))
}
