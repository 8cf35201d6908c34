//! Concat: joins tensors along an axis (ONNX Concat, versions 4 to 13).

use super::{Case, Slice, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId, strides};
use crate::lower::Lower;

operator! {
    /// The operands one after the other along `axis`.
    Concat {
        /// The axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let Some(Some(first)) = inputs.first() else { return Err("takes at least one operand".into()) };
        if self.axis >= first.rank() {
            return Err(format!("axis {} is out of range", self.axis));
        }
        let mut shape = first.shape.clone();
        shape[self.axis] = 0;
        for input in inputs {
            let Some(input) = input else { return Err("has an absent operand".into()) };
            let fits = input.dtype == first.dtype
                && input.rank() == first.rank()
                && (0..first.rank()).all(|i| i == self.axis || input.shape[i] == first.shape[i]);
            if !fits {
                return Err(format!("operands do not fit along axis {}", self.axis));
            }
            shape[self.axis] += input.shape[self.axis];
        }
        Ok(vec![first.with_shape(&shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let start: usize = (0..wrt).map(|i| g.ty(g.input(i)).shape[self.axis]).sum();
        let sizes = g.ty(g.input(wrt)).shape;
        let mut starts = vec![0; sizes.len()];
        starts[self.axis] = start as i64;
        let steps = vec![1; sizes.len()];
        let dy = g.dy();
        g.emit(Slice { starts, steps, sizes }, &[dy]).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let y_strides = strides(&l.output_type(0).shape);
        let y = l.output(0);
        let mut at = 0;
        let mut i = 0;
        while let Some(x) = l.try_input(i) {
            let shape = l.input_type(i).shape.clone();
            l.copy(x, (0, &strides(&shape)), y, (at * y_strides[self.axis], &y_strides), &shape);
            at += shape[self.axis] as i64;
            i += 1;
        }
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Concat { axis: 1 }, &["f32[2,3,2]", "f32[2,1,2]", "f32[2,2,2]"]),
            Case::new(Concat { axis: 0 }, &["i64[2]", "i64[1]"]),
        ]
    }
}

/// ONNX Concat.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let inputs = n.all_inputs()?;
    let rank = n.ty(inputs[0]).rank();
    // Version 1 alone has a default.
    if n.opset() >= 4 && !n.has("axis") {
        return Err(n.fail("attribute `axis` is missing"));
    }
    let axis = n.int("axis", 1)?;
    let axis = n.axis_of(axis, rank)?;
    if inputs.len() == 1 {
        return Ok(inputs);
    }
    n.emit(Concat { axis }, &inputs).map(|y| vec![y])
}
