//! Gradients of elementwise functions on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, code};
use crate::unary::cuda::WORDS;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("dx");
    let [alpha, beta] = ["alpha", "beta"].map(|name| t.real(t.float(name), "x"));
    let params = vec![code(WORDS, t.word("op")), t.at("x"), t.at("dy"), t.at("dx"), alpha, beta, Param::I64(n as i64)];
    w.each(format!("unary_grad_{}", t.kind("x")), n, params);
}
