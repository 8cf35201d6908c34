//! Gradient of the mean squared error on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("x");
    let params = vec![t.at("x"), t.at("t"), t.at("dx"), Param::F64(2.0 / n as f64), Param::I64(n as i64)];
    w.each(format!("mse_loss_grad_{}", t.kind("x")), n, params);
}
