//! Gather: picks slices along an axis by an index tensor (ONNX Gather, versions 1 to 13), such as an embedding table.

use super::unary::second_order;
use super::{Case, Slice, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::{Lower, int};
use sara_kernels::{DType, Scalar};

operator! {
    /// `y[o, j, i] = x[o, index[j], i]`. Operands: `x`, `index`. Negative indices count from the end.
    Gather {
        /// The axis.
        axis: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(index)] = inputs else { return Err("takes two operands".into()) };
        if self.axis >= x.rank() || index.dtype != DType::I64 {
            return Err(format!("axis {} of {x} cannot be indexed by {index}", self.axis));
        }
        let mut shape = x.shape[..self.axis].to_vec();
        shape.extend(&index.shape);
        shape.extend(&x.shape[self.axis + 1..]);
        Ok(vec![x.with_shape(&shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        if wrt == 1 {
            return Ok(None);
        }
        let (dy, index) = (g.dy(), g.input(1));
        let shape = g.ty(g.input(0)).shape;
        g.emit(GatherGrad { axis: self.axis, shape }, &[dy, index]).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        let scalars = extents(&l.input_type(0).shape, self.axis);
        l.launch("gather", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Gather { axis: 0 }, &["f32[3,2]", "i64[2,2]"]),
            Case::new(Gather { axis: 1 }, &["f32[2,3,2]", "i64[3]"]),
            Case::new(Gather { axis: 0 }, &["i64[4]", "i64[]"]),
        ]
    }
}

operator! {
    /// Sums slices into the rows they were gathered from. Operands: `dy`, `index`.
    GatherGrad {
        /// The axis.
        axis: usize,
        /// Shape of the table.
        shape: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(dy), Some(_)] = inputs else { return Err("takes two operands".into()) };
        Ok(vec![dy.with_shape(&self.shape)])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        l.launch("gather_grad", &args, extents(&self.shape, self.axis));
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(GatherGrad { axis: 1, shape: vec![2, 3, 2] }, &["f32[2,4,2]", "i64[4]"])]
    }
}

fn extents(table: &[usize], axis: usize) -> Vec<Scalar> {
    let outer: usize = table[..axis].iter().product();
    let inner: usize = table[axis + 1..].iter().product();
    vec![int(outer), int(table[axis]), int(inner)]
}

/// ONNX Gather. One constant position is a slice, which keeps shape arithmetic and split projections simple.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, index) = (n.input(0)?, n.input(1)?);
    let shape = n.ty(x).shape.clone();
    let axis = n.int("axis", 0)?;
    let axis = n.axis_of(axis, shape.len())?;
    let index = n.cast(index, DType::I64)?;
    if let Some(position) = n.graph().constant::<i64>(index).filter(|i| i.len() == 1).map(|i| i[0]) {
        let dim = shape[axis] as i64;
        let position = if position < 0 { position + dim } else { position };
        if !(0..dim).contains(&position) {
            return Err(n.fail(format!("index {position} is outside dimension {axis} of {shape:?}")));
        }
        let mut slice = Slice { starts: vec![0; shape.len()], steps: vec![1; shape.len()], sizes: shape.clone() };
        slice.starts[axis] = position;
        slice.sizes[axis] = 1;
        let part = n.emit(slice, &[x])?;
        let mut result = shape[..axis].to_vec();
        result.extend(&n.ty(index).shape.clone());
        result.extend(&shape[axis + 1..]);
        return n.reshape(part, &result).map(|y| vec![y]);
    }
    let dim = shape[axis] as i64;
    let positions = n.graph().constant::<i64>(index).unwrap_or_default();
    if let Some(position) = positions.iter().find(|p| !(-dim..dim).contains(*p)) {
        return Err(n.fail(format!("index {position} is outside dimension {axis} of {shape:?}")));
    }
    n.emit(Gather { axis }, &[x, index]).map(|y| vec![y])
}
