//! The product on a GPU: a block for each tile of each result.

use crate::cuda::{Cuda, MOST_ACROSS, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let [m, n, k] = ["m", "n", "k"].map(|name| t.int(name));
    let count = t.ints("batch").iter().product::<i64>() as usize;
    let space = t.space("batch", ["a_batch", "b_batch", "c_batch"]);
    let strides = Param::Struct(["a_strides", "b_strides", "c_strides"].map(|name| t.ints(name).to_vec()).concat());
    let factors = ["alpha", "beta"].map(|name| t.real(t.float(name), "c"));
    let split = w.split([m, n, k], count, t.dtype("c"));
    for first in (0..count).step_by(MOST_ACROSS) {
        let mut params = vec![space.clone(), strides.clone(), t.at("a"), t.at("b"), t.at("c")];
        params.extend([m, n, k, first, count].map(Param::long));
        params.extend(factors.clone());
        params.push(split.param());
        w.tiles(
            format!("gemm_{}_{}{}", t.kind("a"), t.kind("b"), t.products(["a", "b"])),
            &split,
            count - first,
            params,
        );
    }
    if let Some(parts) = split.parts() {
        let mut params = vec![space, strides, parts, t.at("c")];
        params.extend([m, n, count, split.shares()].map(Param::long));
        params.extend(factors);
        w.each(format!("gemm_join_{}", t.kind("c")), count * m * n, params);
    }
}
