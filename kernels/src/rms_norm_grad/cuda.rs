//! Gradient of root mean square normalisation on a GPU: a block for each row.

use crate::cuda::{Cuda, Param, THREADS, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let mut params: Vec<Param> = ["x", "dy", "scale", "rstd", "dx"].map(|name| t.at(name)).to_vec();
    params.push(t.long("cols"));
    let rows = if t.int("cols") == 0 { 0 } else { t.int("rows") };
    w.blocks(format!("rms_norm_grad_{}", t.kind("x")), rows, THREADS, params);
}
