//! Transpose: permutes dimensions (ONNX Transpose, versions 1 to 25). Also DepthToSpace and SpaceToDepth, which are
//! reshape, transpose, reshape.

use super::{Case, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId, strides};
use crate::lower::Lower;

operator! {
    /// `y[i_perm[0], i_perm[1], ..] = x[i_0, i_1, ..]`.
    Transpose {
        /// Dimension of the operand that each dimension of the result is.
        perm: Vec<usize>,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if sorted != (0..x.rank()).collect::<Vec<_>>() {
            return Err(format!("perm {:?} does not permute {} dimensions", self.perm, x.rank()));
        }
        let shape: Vec<usize> = self.perm.iter().map(|&i| x.shape[i]).collect();
        Ok(vec![x.with_shape(&shape)])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        let dy = g.dy();
        g.transpose(dy, &inverse(&self.perm)).map(Some)
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { same: true, ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let from = strides(&l.input_type(0).shape);
        let x_strides: Vec<i64> = self.perm.iter().map(|&i| from[i]).collect();
        let shape = l.output_type(0).shape.clone();
        let (x, y) = (l.input(0), l.output(0));
        l.copy(x, (0, &x_strides), y, (0, &strides(&shape)), &shape);
    }

    fn cases() -> Vec<Case> {
        vec![
            Case::new(Transpose { perm: vec![1, 0] }, &["f32[2,3]"]),
            Case::new(Transpose { perm: vec![0, 2, 1, 3] }, &["f32[2,3,4,2]"]),
            Case::new(Transpose { perm: vec![2, 0, 1] }, &["i64[2,3,1]"]),
        ]
    }
}

/// The permutation that undoes `perm`.
pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inverse[p] = i;
    }
    inverse
}

/// ONNX Transpose.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let rank = n.ty(x).rank();
    let perm = match n.ints("perm")? {
        Some(perm) => perm
            .into_iter()
            .map(|p| usize::try_from(p).map_err(|_| n.fail("perm is negative")))
            .collect::<Result<_>>()?,
        None => (0..rank).rev().collect(),
    };
    n.emit(Transpose { perm }, &[x]).map(|y| vec![y])
}

/// ONNX DepthToSpace, versions 1 to 13.
pub(super) fn import_depth_to_space(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let (b, [batch, c, h, w]) = block_and_shape(n, x)?;
    let column_first = match n.text("mode", "DCR")?.as_str() {
        "DCR" => false,
        "CRD" => true,
        other => return Err(n.fail(format!("mode `{other}` is not known"))),
    };
    if c % (b * b) != 0 {
        return Err(n.fail(format!("{c} channels do not divide into blocks of {b}x{b}")));
    }
    let depth = c / (b * b);
    let (split, perm) = if column_first {
        ([batch, depth, b, b, h, w], vec![0, 1, 4, 2, 5, 3])
    } else {
        ([batch, b, b, depth, h, w], vec![0, 3, 4, 1, 5, 2])
    };
    let split = n.reshape(x, &split)?;
    let moved = n.emit(Transpose { perm }, &[split])?;
    n.reshape(moved, &[batch, depth, h * b, w * b]).map(|y| vec![y])
}

/// ONNX SpaceToDepth, versions 1 to 13.
pub(super) fn import_space_to_depth(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let (b, [batch, c, h, w]) = block_and_shape(n, x)?;
    if h % b != 0 || w % b != 0 {
        return Err(n.fail(format!("a picture of {h}x{w} does not divide into blocks of {b}x{b}")));
    }
    let perm = match n.text("mode", "DCR")?.as_str() {
        "DCR" => vec![0, 3, 5, 1, 2, 4],
        "CRD" => vec![0, 1, 3, 5, 2, 4],
        other => return Err(n.fail(format!("mode `{other}` is not known"))),
    };
    let split = n.reshape(x, &[batch, c, h / b, b, w / b, b])?;
    let moved = n.emit(Transpose { perm }, &[split])?;
    n.reshape(moved, &[batch, c * b * b, h / b, w / b]).map(|y| vec![y])
}

fn block_and_shape(n: &mut OnnxNode<'_, '_>, x: ValueId) -> Result<(usize, [usize; 4])> {
    let block = usize::try_from(n.int("blocksize", 0)?).ok().filter(|b| (1..1 << 16).contains(b));
    let block = block.ok_or_else(|| n.fail("blocksize must be positive and not larger than a picture"))?;
    let shape = <[usize; 4]>::try_from(n.ty(x).shape.as_slice()).map_err(|_| n.fail("takes a tensor of rank 4"))?;
    Ok((block, shape))
}
