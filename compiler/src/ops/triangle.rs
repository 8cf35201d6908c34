//! Diagonals of the last two dimensions: ONNX Trilu (version 14) and EyeLike (9 to 22).

use super::Select;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::ValueId;
use sara_kernels::DType;

/// `keep(column - row)` for each place of a matrix.
fn matrix(n: &mut OnnxNode<'_, '_>, rows: usize, columns: usize, keep: impl Fn(i64) -> bool) -> Result<ValueId> {
    if rows.checked_mul(columns).is_none_or(|len| len > crate::limits::TABLE) {
        return Err(n.fail(format!("a matrix of {rows} x {columns} is not supported: it is too large")));
    }
    let places = (0..rows as i64).flat_map(|i| (0..columns as i64).map(move |j| j - i));
    let mask: Vec<u8> = places.map(|d| u8::from(keep(d))).collect();
    Ok(n.add_const(DType::Bool, &[rows, columns], &mask))
}

/// ONNX Trilu.
pub(super) fn import_trilu(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let [.., rows, columns] = n.ty(x).shape[..] else { return Err(n.fail("needs at least two dimensions")) };
    let upper = n.int("upper", 1)? != 0;
    let k = n.optional_ints(1)?.and_then(|k| k.first().copied()).unwrap_or(0);
    let mask = matrix(n, rows, columns, |d| if upper { d >= k } else { d <= k })?;
    let zero = n.scalar_like(x, 0.0)?;
    n.emit(Select {}, &[mask, x, zero]).map(|y| vec![y])
}

/// ONNX EyeLike.
pub(super) fn import_eye_like(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let [rows, columns] = n.ty(x).shape[..] else { return Err(n.fail("needs two dimensions")) };
    let k = n.int("k", 0)?;
    let own = n.ty(x).dtype;
    let to = match n.has("dtype") {
        true => {
            let number = n.int("dtype", 0)?;
            n.dtype(number)?
        }
        false => own,
    };
    let eye = matrix(n, rows, columns, |d| d == k)?;
    n.cast(eye, to).map(|y| vec![y])
}
