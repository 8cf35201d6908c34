//! The product on a GPU: a block for each tile of each result.

use crate::cuda::{Cuda, MOST_ACROSS, Param, THREADS, TILE, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let (m, n) = (t.int("m"), t.int("n"));
    let count = t.ints("batch").iter().product::<i64>() as usize;
    let strides = ["a_strides", "b_strides", "c_strides"].map(|name| t.ints(name).to_vec()).concat();
    let params = vec![
        t.space("batch", ["a_batch", "b_batch", "c_batch"]),
        Param::Struct(strides),
        t.at("a"),
        t.at("b"),
        t.at("c"),
        t.long("m"),
        t.long("n"),
        t.long("k"),
        Param::I64(count as i64),
        t.real(t.float("alpha"), "c"),
        t.real(t.float("beta"), "c"),
    ];
    let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
    w.launch(format!("gemm_{}", t.kind("c")), [tiles, 1, count.min(MOST_ACROSS)], THREADS, params);
}
