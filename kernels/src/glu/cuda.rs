//! Gated linear units on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, code, number};
use crate::fuse::{Each, Read, c_type, literal};
use crate::unary::cuda::WORDS;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let [alpha, beta] = ["alpha", "beta"].map(|name| t.real(t.float(name), "x"));
    let len = t.len("y");
    let function = code(WORDS, t.word("op"));
    let params = vec![function, t.at("x"), t.at("y"), alpha, beta, t.long("n"), t.long("gate"), Param::long(len)];
    w.each(format!("glu_{}_{}", t.kind("x"), t.kind("y")), len, params);
}

pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    let (dtype, n, gate) = (t.dtype("x").computed(), t.int("n"), t.int("gate"));
    let [alpha, beta] = [literal(t.float("alpha"), dtype)?, literal(t.float("beta"), dtype)?];
    let (number, name) = (number(WORDS, t.word("op")), c_type(dtype));
    let half = |which: usize| Read { first: which * n, index: format!("i + over(i, {n}) * {n}"), ..t.read("x") };
    let value =
        format!("stored<{}>(plain($0) * value<{name}>({number}, plain($1), {alpha}, {beta}))", c_type(t.dtype("y")));
    Some(Each { light: false, ..t.each(vec![half(1 - gate), half(gate)], "y", value) })
}
