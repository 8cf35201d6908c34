//! Resampling on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let mut params = vec![t.at("x"), t.at("index"), t.at("weight"), t.at("y")];
    params.extend(["n_in", "n_out", "inner", "taps"].map(|name| t.long(name)));
    params.push(Param::I64(n as i64));
    w.each(format!("resample_{}", t.kind("y")), n, params);
}
