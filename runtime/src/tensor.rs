//! Tensors on the host, at the borders: data, results, files.

#![allow(clippy::unnecessary_cast, reason = "one body for all element types")]

use crate::error::{Error, Result};
use crate::files::write_atomic;
use ndarray::ArrayD;
use safetensors::tensor::{Dtype, SafeTensors, TensorInfo, TensorView};
use sara_kernels::{DType, Element};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A tensor of any element type.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Single precision.
    F32(ArrayD<f32>),
    /// Double precision.
    F64(ArrayD<f64>),
    /// Signed 64-bit integers.
    I64(ArrayD<i64>),
    /// Signed 32-bit integers.
    I32(ArrayD<i32>),
    /// Signed 16-bit integers.
    I16(ArrayD<i16>),
    /// Signed bytes.
    I8(ArrayD<i8>),
    /// Unsigned 64-bit integers.
    U64(ArrayD<u64>),
    /// Unsigned 32-bit integers.
    U32(ArrayD<u32>),
    /// Unsigned 16-bit integers.
    U16(ArrayD<u16>),
    /// Unsigned bytes.
    U8(ArrayD<u8>),
    /// Truth values, as bytes 0 and 1.
    Bool(ArrayD<u8>),
}

macro_rules! each {
    ($tensor:expr, $a:ident => $body:expr) => {
        match $tensor {
            Tensor::F32($a) => $body,
            Tensor::F64($a) => $body,
            Tensor::I64($a) => $body,
            Tensor::I32($a) => $body,
            Tensor::I16($a) => $body,
            Tensor::I8($a) => $body,
            Tensor::U64($a) => $body,
            Tensor::U32($a) => $body,
            Tensor::U16($a) => $body,
            Tensor::U8($a) | Tensor::Bool($a) => $body,
        }
    };
}

impl Tensor {
    /// A tensor from little-endian bytes, if they are as many as the shape needs.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Option<Tensor> {
        fn array<T: bytemuck::Pod>(shape: &[usize], bytes: &[u8]) -> Option<ArrayD<T>> {
            let wanted = shape.iter().try_fold(size_of::<T>(), |n, d| n.checked_mul(*d))?;
            if bytes.len() != wanted {
                return None;
            }
            ArrayD::from_shape_vec(shape, bytemuck::pod_collect_to_vec(bytes)).ok()
        }
        Some(match dtype {
            DType::F32 => Tensor::F32(array(shape, bytes)?),
            DType::F64 => Tensor::F64(array(shape, bytes)?),
            DType::I64 => Tensor::I64(array(shape, bytes)?),
            DType::I32 => Tensor::I32(array(shape, bytes)?),
            DType::I16 => Tensor::I16(array(shape, bytes)?),
            DType::I8 => Tensor::I8(array(shape, bytes)?),
            DType::U64 => Tensor::U64(array(shape, bytes)?),
            DType::U32 => Tensor::U32(array(shape, bytes)?),
            DType::U16 => Tensor::U16(array(shape, bytes)?),
            DType::U8 => Tensor::U8(array(shape, bytes)?),
            DType::Bool => Tensor::Bool(array(shape, bytes)?),
            DType::Bf16 | DType::F16 => return None,
        })
    }

    /// A single-precision tensor. `values` must have as many elements as the shape.
    pub fn f32(shape: &[usize], values: Vec<f32>) -> Option<Tensor> {
        ArrayD::from_shape_vec(shape, values).ok().map(Tensor::F32)
    }

    /// A tensor of 64-bit integers. `values` must have as many elements as the shape.
    pub fn i64(shape: &[usize], values: Vec<i64>) -> Option<Tensor> {
        ArrayD::from_shape_vec(shape, values).ok().map(Tensor::I64)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Tensor::F32(_) => DType::F32,
            Tensor::F64(_) => DType::F64,
            Tensor::I64(_) => DType::I64,
            Tensor::I32(_) => DType::I32,
            Tensor::I16(_) => DType::I16,
            Tensor::I8(_) => DType::I8,
            Tensor::U64(_) => DType::U64,
            Tensor::U32(_) => DType::U32,
            Tensor::U16(_) => DType::U16,
            Tensor::U8(_) => DType::U8,
            Tensor::Bool(_) => DType::Bool,
        }
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        each!(self, a => a.shape())
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(self, a => a.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in row-major order, as little-endian bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.view().bytes.into_owned()
    }

    /// The elements where they lie, or a copy in row-major order if they lie otherwise.
    pub fn view(&self) -> View<'_> {
        fn of<T: bytemuck::Pod>(a: &ArrayD<T>) -> Cow<'_, [u8]> {
            match a.as_slice() {
                Some(slice) => Cow::Borrowed(bytemuck::cast_slice(slice)),
                None => Cow::Owned(bytemuck::cast_slice(&a.iter().copied().collect::<Vec<T>>()).to_vec()),
            }
        }
        View { dtype: self.dtype(), shape: self.shape().to_vec(), bytes: each!(self, a => of(a)) }
    }

    /// The elements as doubles, in row-major order.
    pub fn to_f64(&self) -> Vec<f64> {
        each!(self, a => a.iter().map(|v| *v as f64).collect())
    }

    /// The elements as single-precision numbers, in row-major order.
    pub fn to_f32(&self) -> Vec<f32> {
        each!(self, a => a.iter().map(|v| *v as f32).collect())
    }

    /// The tensor in another element type, where that loses nothing but precision: numbers stay numbers.
    pub fn to_dtype(&self, dtype: DType) -> Option<Tensor> {
        if self.dtype() == dtype {
            return Some(self.clone());
        }
        let whole = !self.dtype().is_float() || each!(self, a => a.iter().all(|v| (*v as f64).fract() == 0.0));
        Some(match dtype {
            DType::F32 => Tensor::F32(each!(self, a => a.mapv(|v| v as f32))),
            DType::F64 => Tensor::F64(each!(self, a => a.mapv(|v| v as f64))),
            DType::I64 if whole => Tensor::I64(each!(self, a => a.mapv(|v| v as i64))),
            DType::I32 if whole => Tensor::I32(each!(self, a => a.mapv(|v| v as i32))),
            _ => return None,
        })
    }

    /// Element `i` along the first dimension.
    pub fn at(&self, i: usize) -> Option<Tensor> {
        if self.shape().first().is_none_or(|n| i >= *n) {
            return None;
        }
        fn of<T: Clone>(a: &ArrayD<T>, i: usize) -> ArrayD<T> {
            a.index_axis(ndarray::Axis(0), i).to_owned()
        }
        Some(match self {
            Tensor::F32(a) => Tensor::F32(of(a, i)),
            Tensor::F64(a) => Tensor::F64(of(a, i)),
            Tensor::I64(a) => Tensor::I64(of(a, i)),
            Tensor::I32(a) => Tensor::I32(of(a, i)),
            Tensor::I16(a) => Tensor::I16(of(a, i)),
            Tensor::I8(a) => Tensor::I8(of(a, i)),
            Tensor::U64(a) => Tensor::U64(of(a, i)),
            Tensor::U32(a) => Tensor::U32(of(a, i)),
            Tensor::U16(a) => Tensor::U16(of(a, i)),
            Tensor::U8(a) => Tensor::U8(of(a, i)),
            Tensor::Bool(a) => Tensor::Bool(of(a, i)),
        })
    }
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Text that goes with tensors in a file.
pub type Metadata = HashMap<String, String>;

/// Reads a safetensors file. Half-precision tensors are widened to `f32`.
pub fn read_safetensors(path: &Path) -> Result<(Tensors, Metadata)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bad = |e: safetensors::SafeTensorError| Error::file(path, format!("is not a safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(bad)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let file = SafeTensors::deserialize(&bytes).map_err(bad)?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let tensor = from_view(&view).ok_or_else(|| {
            Error::file(path, format!("tensor `{name}` has element type {:?}, which is not supported", view.dtype()))
        })?;
        tensors.insert(name, tensor);
    }
    Ok((tensors, metadata))
}

fn from_view(view: &TensorView<'_>) -> Option<Tensor> {
    let (shape, data) = (view.shape(), view.data());
    let halves = || data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        Dtype::F16 => return Tensor::f32(shape, halves().map(|b| half::f16::from_bits(b).to_f32()).collect()),
        Dtype::BF16 => return Tensor::f32(shape, halves().map(|b| half::bf16::from_bits(b).to_f32()).collect()),
        _ => return None,
    };
    Tensor::from_bytes(dtype, shape, data)
}

/// A tensor's elements where they lie.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Little-endian bytes in row-major order.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> View<'a> {
    /// A vector.
    pub fn vector<T: Element>(dtype: DType, values: &'a [T]) -> View<'a> {
        View { dtype, shape: vec![values.len()], bytes: Cow::Borrowed(bytemuck::cast_slice(values)) }
    }
}

/// Writes a safetensors file; a reader never sees half of it.
pub fn write_safetensors(path: &Path, tensors: &Tensors, metadata: Option<Metadata>) -> Result<()> {
    write_views(path, &tensors.iter().map(|(name, tensor)| (name.clone(), tensor.view())).collect(), metadata)
}

/// Like [`write_safetensors`], without a copy of the elements. Equal contents make equal files.
pub fn write_views(path: &Path, views: &BTreeMap<String, View<'_>>, metadata: Option<Metadata>) -> Result<()> {
    let file = encoded(path, views, metadata)?;
    write_atomic(path, |out| file.write(out))
}

/// A safetensors file that is to be written.
pub(crate) struct Encoded<'a> {
    header: Vec<u8>,
    order: Vec<&'a View<'a>>,
}

impl Encoded<'_> {
    /// Writes it.
    pub(crate) fn write(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        self.order.iter().try_for_each(|view| out.write_all(&view.bytes))
    }
}

/// The file of these views, to be written at `path`.
pub(crate) fn encoded<'a>(
    path: &Path,
    views: &'a BTreeMap<String, View<'a>>,
    metadata: Option<Metadata>,
) -> Result<Encoded<'a>> {
    // Wide elements come first, so that all are aligned.
    let mut order: Vec<(&String, &View<'_>)> = views.iter().collect();
    order.sort_by_key(|(_, view)| std::cmp::Reverse(view.dtype.size()));
    let mut header = BTreeMap::new();
    let mut end = 0;
    for (name, view) in &order {
        let dtype = match view.dtype {
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            DType::I64 => Dtype::I64,
            DType::I32 => Dtype::I32,
            DType::I16 => Dtype::I16,
            DType::I8 => Dtype::I8,
            DType::U64 => Dtype::U64,
            DType::U32 => Dtype::U32,
            DType::U16 => Dtype::U16,
            DType::U8 => Dtype::U8,
            DType::Bool => Dtype::BOOL,
            DType::Bf16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
        };
        let start = end;
        end += view.bytes.len();
        let info = TensorInfo { dtype, shape: view.shape.clone(), data_offsets: (start, end) };
        header.insert(name.as_str(), serde_json::to_value(info).map_err(|e| Error::file(path, e.to_string()))?);
    }
    if let Some(metadata) = metadata {
        let sorted = metadata.into_iter().map(|(key, value)| (key, value.into())).collect();
        header.insert("__metadata__", serde_json::Value::Object(sorted));
    }
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::file(path, e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(Encoded { header, order: order.into_iter().map(|(_, view)| view).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_give_back_what_they_were_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/t.safetensors");
        let mut tensors = Tensors::new();
        for dtype in DType::ALL.iter().filter(|d| !d.is_half()) {
            let bytes = vec![1u8; 6 * dtype.size()];
            tensors.insert(dtype.name().to_owned(), Tensor::from_bytes(*dtype, &[2, 3], &bytes).unwrap());
        }
        tensors.insert("scalar".into(), Tensor::f32(&[], vec![2.5]).unwrap());
        tensors.insert("empty".into(), Tensor::i64(&[0, 4], vec![]).unwrap());
        let metadata = Metadata::from([("key".to_owned(), "value".to_owned())]);
        write_safetensors(&path, &tensors, Some(metadata.clone())).unwrap();
        assert_eq!(read_safetensors(&path).unwrap(), (tensors, metadata));
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "no temporary file is left");
    }

    #[test]
    fn equal_contents_make_equal_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let words: Vec<(String, String)> = (0..40).map(|i| (format!("key \"{i}\""), format!("value \n{i}"))).collect();
        for tensors in [Tensors::new(), Tensors::from([("t".to_owned(), Tensor::f32(&[2], vec![1.0, 2.0]).unwrap())])] {
            let files = [words.clone(), words.iter().rev().cloned().collect()].map(|words: Vec<_>| {
                let metadata: Metadata = words.into_iter().collect();
                write_safetensors(&path, &tensors, Some(metadata.clone())).unwrap();
                assert_eq!(read_safetensors(&path).unwrap(), (tensors.clone(), metadata));
                std::fs::read(&path).unwrap()
            });
            assert!(files[0] == files[1]);
        }
    }

    #[test]
    fn what_is_no_safetensors_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.safetensors");
        for bytes in [&b""[..], b"garbage", &[0xff; 64], &[8, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']] {
            std::fs::write(&path, bytes).unwrap();
            match read_safetensors(&path) {
                Ok((tensors, _)) => assert!(tensors.is_empty()),
                Err(e) => assert!(e.to_string().contains("bad.safetensors"), "{e}"),
            }
        }
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind() {
        // The device that is always full stands for a disk that is.
        let error = write_atomic(Path::new("/dev/full/x"), |out| out.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("/dev/full"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let error = write_atomic(&path, |_| Err(std::io::Error::from(std::io::ErrorKind::StorageFull))).unwrap_err();
        assert!(error.to_string().contains("t: "), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn conversions_keep_values() {
        let t = Tensor::i64(&[2], vec![3, -4]).unwrap();
        assert_eq!(t.to_dtype(DType::F32).unwrap().to_f64(), [3.0, -4.0]);
        assert_eq!(
            Tensor::f32(&[1], vec![2.0]).unwrap().to_dtype(DType::I64).unwrap(),
            Tensor::i64(&[1], vec![2]).unwrap()
        );
        assert!(Tensor::f32(&[1], vec![2.5]).unwrap().to_dtype(DType::I64).is_none(), "a fraction is not an integer");
        assert_eq!(t.at(1).unwrap().to_f64(), [-4.0]);
        assert!(t.at(2).is_none());
    }
}
