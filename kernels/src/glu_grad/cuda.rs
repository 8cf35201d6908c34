//! Gradients of gated linear units on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, code};
use crate::unary::cuda::WORDS;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let [alpha, beta] = ["alpha", "beta"].map(|name| t.real(t.float(name), "x"));
    let len = t.len("dy");
    let function = code(WORDS, t.word("op"));
    let params = vec![function, t.at("dy"), t.at("x"), alpha, beta, t.long("n"), t.long("gate"), Param::long(len)];
    w.each(format!("glu_grad_{}_{}", t.kind("dy"), t.kind("x")), len, params);
}
