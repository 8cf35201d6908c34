//! Types of values, and the constants and attributes that the text form can hold.

use sara_kernels::{DType, Element, Scalar};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Element type and shape of a value. Every dimension is a number: shapes are bound at import.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl Type {
    /// A type.
    pub fn new(dtype: DType, shape: &[usize]) -> Type {
        Type { dtype, shape: shape.to_vec() }
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Type {
        Type { dtype, shape: self.shape.clone() }
    }

    /// The same element type with another shape.
    pub fn with_shape(&self, shape: &[usize]) -> Type {
        Type { dtype: self.dtype, shape: shape.to_vec() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements; the largest number if there are more.
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |n: usize, d| n.saturating_mul(*d))
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.len().saturating_mul(self.dtype.size())
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(","))
    }
}

/// Contiguous row-major element strides of `shape`.
pub fn strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as i64;
    }
    strides
}

/// Element strides with which a tensor of shape `from` is read as one of shape `to`: 0 along broadcast dimensions.
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<i64> {
    let own = strides(from);
    let lead = to.len() - from.len();
    (0..to.len()).map(|i| if i < lead || from[i - lead] == 1 { 0 } else { own[i - lead] }).collect()
}

/// The shape that `a` and `b` broadcast to by NumPy's rules, if they do.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Bytes of a constant or index list, or only their hash where they are too long for a text.
#[derive(Clone)]
pub enum Payload {
    /// The bytes, little-endian.
    Known(Arc<[u8]>),
    /// The hash of bytes that a text did not carry.
    Opaque(u64),
}

impl Payload {
    /// Wraps elements.
    pub fn of<T: Element>(values: &[T]) -> Payload {
        Payload::Known(bytemuck::cast_slice(values).into())
    }

    /// FNV-1a of the bytes.
    pub fn hash(&self) -> u64 {
        match self {
            Payload::Known(bytes) => {
                bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
            }
            Payload::Opaque(hash) => *hash,
        }
    }

    /// The elements, if the bytes are known.
    pub fn elements<T: Element>(&self) -> Option<Vec<T>> {
        match self {
            Payload::Known(bytes) => Some(bytemuck::pod_collect_to_vec(bytes)),
            Payload::Opaque(_) => None,
        }
    }

    /// The bytes, if known.
    pub fn bytes(&self) -> Option<&Arc<[u8]>> {
        match self {
            Payload::Known(bytes) => Some(bytes),
            Payload::Opaque(_) => None,
        }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Payload) -> bool {
        match (self, other) {
            (Payload::Known(a), Payload::Known(b)) => a == b,
            _ => self.hash() == other.hash(),
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:016x}", self.hash())
    }
}

/// Attributes of an operator by name, as the text form shows them.
pub type Attrs = BTreeMap<String, Scalar>;

/// A Rust type that an operator's attribute may have.
pub trait AttrValue: Sized {
    /// To the text form's value.
    fn scalar(&self) -> Scalar;
    /// From the text form's value.
    fn from_scalar(value: &Scalar) -> Option<Self>;
}

impl AttrValue for i64 {
    fn scalar(&self) -> Scalar {
        Scalar::Int(*self)
    }
    fn from_scalar(value: &Scalar) -> Option<Self> {
        match value {
            Scalar::Int(v) => Some(*v),
            _ => None,
        }
    }
}

impl AttrValue for usize {
    fn scalar(&self) -> Scalar {
        Scalar::Int(*self as i64)
    }
    fn from_scalar(value: &Scalar) -> Option<Self> {
        i64::from_scalar(value).and_then(|v| usize::try_from(v).ok())
    }
}

impl AttrValue for bool {
    fn scalar(&self) -> Scalar {
        Scalar::Int(i64::from(*self))
    }
    fn from_scalar(value: &Scalar) -> Option<Self> {
        match value {
            Scalar::Int(0) => Some(false),
            Scalar::Int(1) => Some(true),
            _ => None,
        }
    }
}

impl AttrValue for f64 {
    fn scalar(&self) -> Scalar {
        Scalar::Float(*self)
    }
    fn from_scalar(value: &Scalar) -> Option<Self> {
        match value {
            Scalar::Float(v) => Some(*v),
            Scalar::Int(v) => Some(*v as f64),
            _ => None,
        }
    }
}

impl AttrValue for Vec<i64> {
    fn scalar(&self) -> Scalar {
        Scalar::Ints(self.clone())
    }
    fn from_scalar(value: &Scalar) -> Option<Self> {
        match value {
            Scalar::Ints(v) => Some(v.clone()),
            _ => None,
        }
    }
}

impl AttrValue for Vec<usize> {
    fn scalar(&self) -> Scalar {
        Scalar::Ints(self.iter().map(|v| *v as i64).collect())
    }
    fn from_scalar(value: &Scalar) -> Option<Self> {
        Vec::<i64>::from_scalar(value)?.into_iter().map(|v| usize::try_from(v).ok()).collect()
    }
}

impl AttrValue for String {
    fn scalar(&self) -> Scalar {
        Scalar::Word(self.clone())
    }
    fn from_scalar(value: &Scalar) -> Option<Self> {
        match value {
            Scalar::Word(v) => Some(v.clone()),
            _ => None,
        }
    }
}

impl AttrValue for DType {
    fn scalar(&self) -> Scalar {
        Scalar::Word(self.name().to_owned())
    }
    fn from_scalar(value: &Scalar) -> Option<Self> {
        match value {
            Scalar::Word(v) => DType::from_name(v),
            _ => None,
        }
    }
}
