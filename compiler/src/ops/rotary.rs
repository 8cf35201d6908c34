//! ONNX RotaryEmbedding, version 23: pairs of features turn by an angle that grows with the position (RoFormer, arXiv 2104.09864).

use super::{Concat, Gather, Slice, Transpose};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::ValueId;
use sara_kernels::DType;

/// ONNX RotaryEmbedding.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, cos, sin) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let given = n.ty(x).shape.clone();
    let (interleaved, part) = (n.int("interleaved", 0)? != 0, n.int("rotary_embedding_dim", 0)?);
    let heads = n.int("num_heads", 0)?;
    // Tokens before heads.
    let x = match given[..] {
        [_, _, _, _] => n.emit(Transpose { perm: vec![0, 2, 1, 3] }, &[x])?,
        [b, t, width] if heads > 0 && width as i64 % heads == 0 => {
            n.reshape(x, &[b, t, heads as usize, width / heads as usize])?
        }
        _ => return Err(n.fail(format!("{given:?} cannot be divided into {heads} heads"))),
    };
    let shape = n.ty(x).shape.clone();
    let dim = shape[3];
    let turned = if part == 0 { Some(dim) } else { usize::try_from(part).ok() };
    let turned = turned.filter(|r| *r <= dim && r.is_multiple_of(2));
    let turned = turned.ok_or_else(|| n.fail(format!("{part} of {dim} features cannot turn in pairs")))?;
    let (cos, sin) = (angles(n, cos, &shape, turned / 2)?, angles(n, sin, &shape, turned / 2)?);
    let half = turned / 2;
    let (a, b) = match interleaved {
        true => (features(n, x, 0, 2, half)?, features(n, x, 1, 2, half)?),
        false => (features(n, x, 0, 1, half)?, features(n, x, half, 1, half)?),
    };
    let (ac, bs) = (n.binary("mul", a, cos)?, n.binary("mul", b, sin)?);
    let (as_, bc) = (n.binary("mul", a, sin)?, n.binary("mul", b, cos)?);
    let (real, imaginary) = (n.binary("sub", ac, bs)?, n.binary("add", as_, bc)?);
    let mut rotated = if interleaved {
        let column = [&shape[..3], &[half, 1]].concat();
        let pair = [n.reshape(real, &column)?, n.reshape(imaginary, &column)?];
        let pairs = n.emit(Concat { axis: 4 }, &pair)?;
        n.reshape(pairs, &[&shape[..3], &[turned]].concat())?
    } else {
        n.emit(Concat { axis: 3 }, &[real, imaginary])?
    };
    if turned < dim {
        let rest = features(n, x, turned, 1, dim - turned)?;
        rotated = n.emit(Concat { axis: 3 }, &[rotated, rest])?;
    }
    let y = match given.len() {
        4 => n.emit(Transpose { perm: vec![0, 2, 1, 3] }, &[rotated])?,
        _ => n.reshape(rotated, &given)?,
    };
    Ok(vec![y])
}

/// A table of cosines or sines as `[batch or 1, tokens, 1, half]`.
fn angles(n: &mut OnnxNode<'_, '_>, table: ValueId, shape: &[usize], half: usize) -> Result<ValueId> {
    let table = match n.optional(3) {
        Some(positions) => {
            let positions = n.cast(positions, DType::I64)?;
            n.emit(Gather { axis: 0 }, &[table, positions])?
        }
        None => table,
    };
    let own = n.ty(table).shape.clone();
    match own[..] {
        [b, t, h] if (b == shape[0] || b == 1) && t == shape[1] && h == half => n.reshape(table, &[b, t, 1, h]),
        _ => Err(n.fail(format!("angles of shape {own:?} do not fit {} tokens and {half} pairs", shape[1]))),
    }
}

/// Every `step`-th of the last dimension from `start` on.
fn features(n: &mut OnnxNode<'_, '_>, x: ValueId, start: usize, step: i64, count: usize) -> Result<ValueId> {
    let mut sizes = n.ty(x).shape.clone();
    sizes[3] = count;
    n.emit(Slice { starts: vec![0, 0, 0, start as i64], steps: vec![1, 1, 1, step], sizes }, &[x])
}
