//! Select: elementwise choice (ONNX Where, versions 9 to 16).

use super::{Case, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId, broadcast};
use crate::lower::{Lower, dims, reading};
use sara_kernels::DType;

operator! {
    /// `y = cond ? a : b`, with broadcasting.
    Select {}

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(cond), Some(a), Some(b)] = inputs else { return Err("takes three operands".into()) };
        if cond.dtype != DType::Bool || a.dtype != b.dtype {
            return Err("takes a bool and two operands of one type".into());
        }
        let shape = broadcast(&a.shape, &b.shape).and_then(|s| broadcast(&cond.shape, &s));
        let shape = shape.ok_or("the operands do not broadcast")?;
        Ok(vec![a.with_shape(&shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let dy = g.dy();
        let zero = g.scalar(dy, 0.0);
        let cond = g.input(0);
        match wrt {
            1 => g.emit(Select {}, &[cond, dy, zero]).map(Some),
            2 => g.emit(Select {}, &[cond, zero, dy]).map(Some),
            _ => Ok(None),
        }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let shape = l.output_type(0).shape.clone();
        let mut scalars = vec![dims(&shape)];
        scalars.extend((0..3).map(|i| reading(&l.input_type(i).shape, &shape)));
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.input(2)), Some(l.output(0))];
        l.launch("select", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(Select {}, &["bool[2,3]", "f32[3]", "f32[2,1]"]), Case::new(Select {}, &["bool[1]", "i64[2]", "i64[]"])]
    }
}

/// ONNX Where.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let inputs = [n.input(0)?, n.input(1)?, n.input(2)?];
    n.emit(Select {}, &inputs).map(|y| vec![y])
}
