//! The gradient at trained entries on a GPU: a warp for each entry where they are few, else tiles of the whole product, of
//! which only the entries are kept.

use crate::DType;
use crate::cuda::{Cuda, Param, THREADS, Task, Work, few};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let [batch, n, rows, cols] = ["batch", "n", "rows", "cols"].map(|name| t.int(name));
    let (count, kind, kinds) = (t.len("idx"), t.kind("dp"), [t.kind("a"), t.kind("b")].join("_"));
    let side = |of: usize, turned: bool| if turned { (1, n) } else { (of, 1) };
    let (a, b) = (side(rows, t.int("a_t") != 0), side(cols, t.int("b_t") != 0));
    let layout = [n.max(1), a.0, b.0, a.1, b.1, n * rows, n * cols].map(|v| v as i64);
    let mut params = vec![Param::Struct(layout.to_vec()), t.at("a"), t.at("b"), t.at("idx"), t.at("dp")];
    if few(count, rows * cols) {
        params.extend([count, cols, batch * n].map(Param::long));
        w.blocks(format!("masked_matmul_grad_sample_{kinds}"), count.div_ceil(8), THREADS, params);
    } else if count > 0 {
        let split = w.split_places([rows, cols, batch * n], 1, count, t.dtype("dp"));
        params.extend([count, rows, cols, batch * n].map(Param::long));
        params.push(split.param());
        w.tiles(format!("masked_matmul_grad_tile_{kinds}{}", products(t, ["a", "b"])), &split, 1, params);
        w.join(format!("masked_matmul_grad_join_{kind}"), &split, t.at("dp"), count);
    }
}

/// What the names of entry points of tiles of these operands end with. What is widened is multiplied as what is in single precision;
/// products of two in bfloat16 need no more than that.
pub(crate) fn products(t: &Task<'_>, operands: [&str; 2]) -> &'static str {
    if operands.iter().all(|name| t.dtype(name) == DType::Bf16) { "" } else { t.products(["dp"; 2]) }
}
