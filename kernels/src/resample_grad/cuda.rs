//! The gradient of resampling on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("dx");
    let mut params = vec![t.at("dy"), t.at("index"), t.at("weight"), t.at("dx")];
    params.extend(["n_in", "n_out", "inner", "taps"].map(|name| t.long(name)));
    params.push(Param::I64(n as i64));
    w.each(format!("resample_grad_{}", t.kind("dx")), n, params);
}
