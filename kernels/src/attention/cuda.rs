//! Attention on a GPU: a block for each tile of queries and 128 columns of the values.

use super::Shape;
use crate::DType;
use crate::cuda::{Cuda, MOST_ACROSS, Param, Task, Work};

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

/// The name of the argument's type in the names of entry points, or `half` where operands of products are rounded.
pub(crate) fn kind(t: &Task<'_>, name: &str) -> &'static str {
    if t.int("half") != 0 && t.dtype(name) == DType::F32 { "half" } else { t.kind(name) }
}

fn plan(t: &Task<'_>, w: &mut Work) {
    let s = Shape::of(t);
    let mut params = vec![s.param()];
    params.extend(["q", "k", "v", "mask", "y", "lse"].map(|name| t.at(name)));
    params.push(t.real(t.float("scale"), "y"));
    // Without values there are still sums of exponentials.
    let grid = [s.queries.div_ceil(32), s.value_dim.div_ceil(128).max(1), s.images()];
    debug_assert!(s.images() <= MOST_ACROSS);
    w.launch(format!("attention_{}", kind(t, "y")), grid, 128, params);
}
