//! Elementwise functions of two operands on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, code};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// The functions, in the order of the list in `kernel.cu`.
const WORDS: &[&str] = &[
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "mod",
    "fmod",
    "min",
    "max",
    "equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "bit_and",
    "bit_or",
    "bit_xor",
    "shift_left",
    "shift_right",
];

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    // Truth values are bytes of 0 and 1.
    let word = match t.word("op") {
        "and" => "bit_and",
        "or" => "bit_or",
        "xor" => "bit_xor",
        other => other,
    };
    let space = t.space("shape", ["a_strides", "b_strides"]);
    let params = vec![code(WORDS, word), space, t.at("a"), t.at("b"), t.at("y"), Param::I64(n as i64)];
    w.each(format!("binary_{}", t.kind("a")), n, params);
}
