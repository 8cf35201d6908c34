//! Cast: changes the element type (ONNX Cast, versions 6 to 25, and CastLike, versions 15 to 25).
//!
//! Half-precision types are computed in `f32`, so a cast between those is the identity.

use super::{Case, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::Lower;
use sara_kernels::DType;

operator! {
    /// `y = x`, converted. Real numbers become integers by dropping the fraction.
    Cast {
        /// Element type of the result.
        to: DType,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        Ok(vec![x.with_dtype(self.to)])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        let from = g.ty(g.input(0)).dtype;
        if !from.is_float() || !self.to.is_float() {
            return Ok(None);
        }
        let dy = g.dy();
        g.emit(Cast { to: from }, &[dy]).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.output(0))];
        l.launch("cast", &args, vec![]);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Cast { to: DType::F64 }, &["f32[3]"]),
            Case::new(Cast { to: DType::I64 }, &["f32[2,2]"]),
            Case::new(Cast { to: DType::F32 }, &["i64[2]"]),
            Case::new(Cast { to: DType::Bool }, &["f32[2]"]),
            Case::new(Cast { to: DType::F32 }, &["bool[3]"]),
            Case::new(Cast { to: DType::F32 }, &["bf16[3]"]),
            Case::new(Cast { to: DType::F32 }, &["f16[3]"]),
        ]
    }
}

/// ONNX Cast.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let to = n.int("to", 0)?;
    let to = n.dtype(to)?;
    n.int("saturate", 1)?;
    n.text("round_mode", "up")?;
    n.cast(x, to).map(|y| vec![y])
}

/// ONNX CastLike.
pub(super) fn import_like(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, like) = (n.input(0)?, n.input(1)?);
    let to = n.ty(like).dtype;
    n.int("saturate", 1)?;
    n.text("round_mode", "up")?;
    n.cast(x, to).map(|y| vec![y])
}
