//! Fetch: a weight from the bytes of its file, with its trained entries in place.

use super::unary::second_order;
use super::{Case, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::ir::{Type, ValueId};
use crate::lower::Lower;
use sara_kernels::{DType, Scalar};

operator! {
    /// The weight that `file` holds, with all entries that were ever trained laid over it. Operands: `file`, and where entries train
    /// `idx` and `p`. What a weight is when it stays in its file, as [`super::SparseDelta`] is when it stays in memory.
    Fetch {
        /// Element type in the file: `f32`, `f64`, `f16` or `bf16`.
        stored: String,
        /// Shape of the weight.
        shape: Vec<usize>,
        /// Element type of the result: that in which the weight is computed with, or half precision.
        to: DType,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let (Some(file), Some(trained)) = (inputs.first().copied().flatten(), inputs.get(1..)) else {
            return Err("takes a file".into());
        };
        let size = match (self.stored.as_str(), self.to) {
            ("f64", DType::F64) => 8,
            ("f32", to) if to.computed() == DType::F32 => 4,
            ("f16" | "bf16", to) if to.computed() == DType::F32 => 2,
            (stored, to) => return Err(format!("cannot read elements of type {stored} as {to}")),
        };
        let y = Type::new(self.to, &self.shape);
        if file.dtype != DType::U8 || file.shape != [y.len() * size] {
            return Err(format!("{file} does not hold {} elements of type {}", y.len(), self.stored));
        }
        match trained {
            [] => {}
            [Some(idx), Some(p)] if idx.dtype == DType::U32 && p.dtype == DType::F32 && idx.shape == p.shape => {}
            _ => return Err("takes an index with its values".into()),
        }
        Ok(vec![y])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), l.try_whole(1), l.try_whole(2), Some(l.output(0))];
        l.launch("fetch", &args, vec![Scalar::Word(self.stored.clone())]);
    }

    fn cases() -> Vec<Case> {
        let fetch = |stored: &str, to| Fetch { stored: stored.to_owned(), shape: vec![2, 3], to };
        vec![
            Case::new(fetch("f32", DType::F32), &["u8[24]"]),
            Case::new(fetch("bf16", DType::Bf16), &["u8[12]"]),
            Case::new(fetch("f32", DType::F16), &["u8[24]"]),
            Case::new(fetch("f64", DType::F64), &["u8[48]", "u32[2]", "f32[2]"]),
        ]
    }
}
