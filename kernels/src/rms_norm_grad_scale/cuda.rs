//! Gradient of root mean square normalisation's scale on a GPU: blocks sum parts of the rows, then parts are added.

use crate::cuda::{Cuda, Param, THREADS, Task, Work};
use crate::norm::row_parts;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let (rows, width, kind) = (t.int("rows"), t.int("cols"), t.kind("dscale"));
    let parts = row_parts(rows);
    let sums = w.scratch(parts * 2 * width * 8);
    let (many, cols) = (Param::I64(parts as i64), t.long("cols"));
    let mut params: Vec<Param> = ["x", "dy", "rstd"].map(|name| t.at(name)).to_vec();
    params.extend([sums.clone(), t.long("rows"), cols.clone()]);
    w.launch(format!("rms_norm_grad_scale_{kind}"), [width.div_ceil(32), parts, 1], THREADS, params);
    let params = vec![sums, t.at("dscale"), many, cols];
    w.blocks(format!("rms_norm_grad_scale_finish_{kind}"), width.div_ceil(THREADS as usize), THREADS, params);
}
