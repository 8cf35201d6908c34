//! Gradients of elementwise functions on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, code, number};
use crate::fuse::{Each, c_type, literal};
use crate::unary::cuda::WORDS;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("dx");
    let [alpha, beta] = ["alpha", "beta"].map(|name| t.real(t.float(name), "x"));
    let params = vec![code(WORDS, t.word("op")), t.at("x"), t.at("dy"), t.at("dx"), alpha, beta, Param::I64(n as i64)];
    w.each(format!("unary_grad_{}", t.kind("x")), n, params);
}

pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    let dtype = t.dtype("dx");
    let [alpha, beta] = [literal(t.float("alpha"), dtype)?, literal(t.float("beta"), dtype)?];
    let (number, name) = (number(WORDS, t.word("op")), c_type(dtype));
    let value = format!("$1 * slope<{name}>({number}, plain($0), {alpha}, {beta})");
    Some(Each { light: false, ..t.each(vec![t.read("x"), t.read("dy")], "dx", value) })
}
