//! Root mean square normalisation on a GPU: a block for each row.

use crate::cuda::{Cuda, Param, THREADS, Task, Work};
use crate::fuse::Head;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let mut params: Vec<Param> = ["x", "scale", "y", "rstd"].map(|name| t.at(name)).to_vec();
    params.extend([t.long("cols"), Param::F64(t.float("epsilon"))]);
    w.blocks(format!("rms_norm_{}_{}", t.kind("x"), t.kind("y")), t.int("rows"), THREADS, params);
}

pub(crate) fn head(t: &Task<'_>, _: &Work) -> Option<Head> {
    let parameters = "const X* x, const T* scale, T* rstd, i64 cols, f64 epsilon";
    let call = "norm_forward<false>(x, scale, (const T*)nullptr, (T*)nullptr, rstd, cols, epsilon, put)";
    Some(t.head("y", "norm.h", parameters, call).reading(t))
}
