//! The gradient at trained entries on a GPU: a warp for each entry where that costs less, else tiles of the whole product, of which only
//! the entries are kept.

use crate::DType;
use crate::cuda::{Cuda, Param, THREADS, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let [batch, n, rows, cols] = ["batch", "n", "rows", "cols"].map(|name| t.int(name));
    let (count, kind, kinds) = (t.len("idx"), t.kind("dp"), [t.kind("a"), t.kind("b")].join("_"));
    let side = |of: usize, turned: bool| if turned { (1, n) } else { (of, 1) };
    let (a, b) = (side(rows, t.int("a_t") != 0), side(cols, t.int("b_t") != 0));
    let layout = [n.max(1), a.0, b.0, a.1, b.1, n * rows, n * cols].map(|v| v as i64);
    let mut params = vec![Param::Struct(layout.to_vec()), t.at("a"), t.at("b"), t.at("idx"), t.at("dp")];
    if by_entry(t, ["a", "b"], [a.0, b.0], count, rows * cols) {
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

/// Bytes that are read at once at least, whatever is used of them.
const SECTOR: usize = 32;

/// Floating-point operations that tiles make while a byte is read from the cache that all multiprocessors share: half of the peaks of an
/// H100 (NVIDIA's data sheet: 67, 495 and 989 TF/s) beside 5.5 TB/s. They count for all devices.
fn operations_a_byte(t: &Task<'_>, operands: [&str; 2]) -> usize {
    match products(t, operands) {
        "_split" => 30,
        "_tensor" => 45,
        _ if t.dtype("dp") == DType::F64 => 3,
        _ if operands.iter().all(|name| t.dtype(name) == DType::Bf16) => 90,
        _ => 6,
    }
}

/// Whether `count` entries of `all` cost less by themselves, when they wait for the terms of both operands, than tiles, which wait for
/// their multiplications. Terms of an operand lie so many elements apart. The choice goes by sizes and not by a clock, so that a
/// training has the same bits again.
pub(crate) fn by_entry(t: &Task<'_>, operands: [&str; 2], apart: [usize; 2], count: usize, all: usize) -> bool {
    let bytes = |i: usize| (t.dtype(operands[i]).size() * apart[i]).min(SECTOR);
    let operations = operations_a_byte(t, operands).saturating_mul(bytes(0) + bytes(1));
    count.saturating_mul(operations) < 2 * all
}
