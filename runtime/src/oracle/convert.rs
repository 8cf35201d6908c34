//! Arrays of ONNX Runtime as host tensors and back. Host tensors hold half precision widened.

use super::{Array, OracleType};
use crate::tensor::Tensor;
use half::{bf16, f16};
use sara_kernels::DType;

impl Array {
    /// The array as a tensor, or `None` if its bytes do not match its shape.
    pub fn to_tensor(&self) -> Option<Tensor> {
        let shape = &self.shape;
        let plain = |dtype| Tensor::from_bytes(dtype, shape, &self.bytes);
        let pairs = || self.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self.dtype {
            OracleType::F32 => plain(DType::F32),
            OracleType::F64 => plain(DType::F64),
            OracleType::I64 => plain(DType::I64),
            OracleType::U64 => plain(DType::U64),
            OracleType::I32 => plain(DType::I32),
            OracleType::U32 => plain(DType::U32),
            OracleType::U8 => plain(DType::U8),
            OracleType::Bool => plain(DType::Bool),
            OracleType::F16 => Tensor::f32(shape, pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            OracleType::BF16 => Tensor::f32(shape, pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            OracleType::I16 => plain(DType::I16),
            OracleType::I8 => plain(DType::I8),
            OracleType::U16 => plain(DType::U16),
        }
    }

    /// A tensor as an array of this type, rounded to it, or `None` for a type that no input of a model we compute has.
    pub fn from_tensor(tensor: &Tensor, dtype: OracleType) -> Option<Array> {
        let as_f32 = || tensor.to_f32().into_iter();
        let as_int = || tensor.to_f64().into_iter().map(|v| v as i64);
        let bytes = match dtype {
            OracleType::F32 => as_f32().flat_map(f32::to_le_bytes).collect(),
            OracleType::F64 => tensor.to_f64().into_iter().flat_map(f64::to_le_bytes).collect(),
            OracleType::F16 => as_f32().flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
            OracleType::BF16 => as_f32().flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
            OracleType::I64 => tensor.to_dtype(DType::I64)?.bytes(),
            OracleType::I32 => as_int().flat_map(|v| (v as i32).to_le_bytes()).collect(),
            OracleType::U32 => as_int().flat_map(|v| (v as u32).to_le_bytes()).collect(),
            OracleType::I16 => as_int().flat_map(|v| (v as i16).to_le_bytes()).collect(),
            OracleType::U16 => as_int().flat_map(|v| (v as u16).to_le_bytes()).collect(),
            OracleType::I8 => as_int().map(|v| v as i8 as u8).collect(),
            OracleType::U8 => as_int().map(|v| v as u8).collect(),
            OracleType::Bool => as_int().map(|v| u8::from(v != 0)).collect(),
            OracleType::U64 => return None,
        };
        Some(Array { dtype, shape: tensor.shape().to_vec(), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_round_trip() {
        let tensor = Tensor::i64(&[2, 2], vec![0, 1, 3, 100]).unwrap();
        for dtype in OracleType::ALL.iter().copied().filter(|d| *d != OracleType::U64) {
            let array = Array::from_tensor(&tensor, dtype).unwrap();
            assert_eq!(array.expected_len(), Some(array.bytes.len()), "{dtype}");
            let want = if dtype == OracleType::Bool { vec![0.0, 1.0, 1.0, 1.0] } else { tensor.to_f64() };
            assert_eq!(array.to_tensor().unwrap().to_f64(), want, "{dtype}");
        }
        let negative = Tensor::f32(&[2], vec![-2.0, 0.5]).unwrap();
        for dtype in [OracleType::F32, OracleType::F64, OracleType::F16, OracleType::BF16] {
            assert_eq!(Array::from_tensor(&negative, dtype).unwrap().to_tensor().unwrap().to_f64(), [-2.0, 0.5]);
        }
        let negative = Tensor::i64(&[1], vec![-3]).unwrap();
        for dtype in [OracleType::I8, OracleType::I16, OracleType::I32, OracleType::I64] {
            assert_eq!(Array::from_tensor(&negative, dtype).unwrap().to_tensor().unwrap().to_f64(), [-3.0]);
        }
    }
}
