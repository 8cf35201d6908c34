//! The product on a GPU: a block for each tile of each result.

use crate::cuda::{Cuda, MOST_ACROSS, Param, Task, Work};
use crate::fuse::{Head, SAME, index};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let [m, n, k] = ["m", "n", "k"].map(|name| t.int(name));
    let count = t.ints("batch").iter().product::<i64>() as usize;
    let space = t.space("batch", ["a_batch", "b_batch", "c_batch"]);
    let strides = Param::Struct(["a_strides", "b_strides", "c_strides"].map(|name| t.ints(name).to_vec()).concat());
    let factors = ["alpha", "beta"].map(|name| t.real(t.float(name), "c"));
    let split = w.split([m, n, k], count, t.dtype("c").computed());
    for first in (0..count).step_by(MOST_ACROSS) {
        let mut params = vec![space.clone(), strides.clone(), t.at("a"), t.at("b"), t.at("bias"), t.at("c")];
        params.extend([m, n, k, first, count].map(Param::long));
        params.extend(factors.clone());
        params.push(split.param());
        w.tiles(
            format!("gemm_{}_{}_{}{}", t.kind("a"), t.kind("b"), t.kind("c"), t.products(["a", "b"])),
            &split,
            MOST_ACROSS.min(count - first),
            params,
        );
    }
    if let Some(parts) = split.parts() {
        let mut params = vec![space, strides, parts, t.at("bias"), t.at("c")];
        params.extend([m, n, count, split.shares()].map(Param::long));
        params.extend(factors);
        w.each(format!("gemm_join_{}", t.kind("c")), count * m * n, params);
    }
}

/// A product that is written row by row, and not added to what is there. The factor is that of the launch.
pub(crate) fn head(t: &Task<'_>, w: &Work) -> Option<Head> {
    let [m, n] = ["m", "n"].map(|name| t.int(name) as i64);
    let shape = [t.ints("batch"), &[m, n]].concat();
    let strides = [t.ints("c_batch"), t.ints("c_strides")].concat();
    let joins = w.steps.last()?.entry.starts_with("gemm_join");
    if index(&shape, &strides) != SAME || t.float("beta") != 0.0 || !joins && w.steps.len() > 1 {
        return None;
    }
    let scaled = "[=](i64 i, i64 j, T sum) { put(i, bias ? alpha * sum + bias[j] : alpha * sum); }";
    Some(if joins {
        let parameters =
            "Space<3> batch, Strides s, const T* parts, const T* bias, i64 m, i64 n, i64 count, i64 shares, T alpha, T";
        t.head("c", "gemm.h", parameters, &format!("join(batch, s, parts, m, n, count, shares, {scaled})"))
    } else {
        let parameters = "Space<3> batch, Strides s, const A* a, const B* b, const T* bias, i64 m, i64 n, i64 k, i64 first, i64 count, \
                          T alpha, T, Split<T> split";
        let call = format!("multiply<P>(batch, s, a, b, m, n, k, first, count, split, {scaled})");
        t.head("c", "gemm.h", parameters, &call).product(t, ["a", "b"])
    })
}
