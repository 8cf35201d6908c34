//! Elementwise functions on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, code, number, whole};
use crate::fuse::{Each, c_type, literal};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// The functions, in the order of the list in `function.h`.
pub(crate) const WORDS: &[&str] = &[
    "neg",
    "abs",
    "sign",
    "floor",
    "ceil",
    "round",
    "exp",
    "log",
    "sqrt",
    "reciprocal",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "acosh",
    "atanh",
    "tanh",
    "sigmoid",
    "erf",
    "relu",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "softplus",
    "softsign",
    "hard_sigmoid",
    "hard_swish",
    "silu",
    "mish",
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "clip",
    "not",
    "bit_not",
];

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let (alpha, beta) = (t.float("alpha"), t.float("beta"));
    let dtype = t.dtype("x").computed();
    let [alpha, beta] = if dtype.is_float() {
        [alpha, beta].map(|v| t.real(v, "x"))
    } else {
        [alpha, beta].map(|v| Param::I64(whole(v, dtype)))
    };
    let params = vec![code(WORDS, t.word("op")), t.at("x"), t.at("y"), alpha, beta, Param::I64(n as i64)];
    w.each(format!("unary_{}_{}", t.kind("x"), t.kind("y")), n, params);
}

pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    let dtype = t.dtype("x").computed();
    let [alpha, beta] = [literal(t.float("alpha"), dtype)?, literal(t.float("beta"), dtype)?];
    let (number, name) = (number(WORDS, t.word("op")), c_type(dtype));
    let value = match dtype.is_float() {
        true => format!("stored<{}>(value<{name}>({number}, plain($0), {alpha}, {beta}))", c_type(t.dtype("y"))),
        false => format!("integer<{name}>({number}, $0, {alpha}, {beta})"),
    };
    let light = matches!(t.word("op"), "neg" | "abs" | "sign" | "relu" | "leaky_relu" | "clip" | "not" | "bit_not");
    Some(Each { light, ..t.each(vec![t.read("x")], "y", value) })
}
