//! Layer normalisation on a GPU: a block for each row.

use crate::cuda::{Cuda, Param, THREADS, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let mut params: Vec<Param> = ["x", "scale", "bias", "y", "mean", "rstd"].map(|name| t.at(name)).to_vec();
    params.extend([t.long("cols"), Param::F64(t.float("epsilon"))]);
    w.blocks(format!("layer_norm_{}", t.kind("y")), t.int("rows"), THREADS, params);
}
