//! Attention on a GPU: a block for each tile of queries and 128 columns of the values.

use super::Shape;
use crate::DType;
use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

impl Shape {
    /// The shape as `Shape` in `attention.h` has it.
    pub(crate) fn param(&self) -> Param {
        let mut words: Vec<i64> =
            [self.heads, self.queries, self.keys, self.dim, self.value_dim].map(|v| v as i64).to_vec();
        words.extend(self.mask_strides.map(|v| v as i64));
        Param::Struct(words)
    }
}

/// Widths of rows for which there are kernels on tensor cores, as `attention_tensor.h` has them.
const WIDTHS: [usize; 5] = [48, 64, 80, 128, 160];
/// Rows of a block of those kernels.
pub(crate) const ROWS: usize = 64;

/// Parts into which blocks of the second direction divide the columns.
pub(crate) fn column_parts(width: usize) -> usize {
    if width > 80 { 2 } else { 1 }
}

/// The kernel on tensor cores that a call can use, by what the names of its entry points end with and its width: products are of half
/// precision or may be in tf32, and keys and values are equally wide.
pub(crate) fn tensor(t: &Task<'_>, s: &Shape) -> Option<(String, usize)> {
    let operands = match kind(t) {
        "half" => "half",
        _ if t.products(["q", "k"]) == "_tensor" => "tensor",
        _ => return None,
    };
    let width = WIDTHS.into_iter().find(|w| s.dim == s.value_dim && s.dim <= *w)?;
    Some((format!("{operands}_{width}"), width))
}

/// The name of the type of all arguments in the names of entry points, or `half` where operands of products are rounded.
pub(crate) fn kind(t: &Task<'_>) -> &'static str {
    if t.int("half") != 0 && t.dtype("lse") == DType::F32 { "half" } else { t.kind("lse") }
}

/// Which of the arguments are in half precision, a bit for each name, as `Argument` in `attention.h` has them.
pub(crate) fn halves(t: &Task<'_>, names: &[&str]) -> Param {
    let half = |(bit, name): (usize, &&str)| i32::from(!name.is_empty() && t.dtype(name).is_half()) << bit;
    Param::I32(names.iter().enumerate().map(half).sum())
}

fn plan(t: &Task<'_>, w: &mut Work) {
    let s = Shape::of(t);
    let mut params = vec![s.param()];
    params.extend(["q", "k", "v", "mask", "y", "lse"].map(|name| t.at(name)));
    params.push(t.real(t.float("scale"), "lse"));
    params.push(halves(t, &["q", "k", "v", "y"]));
    if let Some((kernel, width)) = tensor(t, &s) {
        let grid = [s.queries.div_ceil(ROWS), column_parts(width), s.images()];
        return w.launch(format!("attention_{kernel}"), grid, 128, params);
    }
    // Without values there are still sums of exponentials.
    let grid = [s.queries.div_ceil(32), s.value_dim.div_ceil(128).max(1), s.images()];
    w.launch(format!("attention_{}", kind(t)), grid, 128, params);
}
