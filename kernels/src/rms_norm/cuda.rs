//! Root mean square normalisation on a GPU: a block for each row.

use crate::cuda::{Cuda, Param, THREADS, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let mut params: Vec<Param> = ["x", "scale", "y", "rstd"].map(|name| t.at(name)).to_vec();
    params.extend([t.long("cols"), Param::F64(t.float("epsilon"))]);
    w.blocks(format!("rms_norm_{}", t.kind("y")), t.int("rows"), THREADS, params);
}
