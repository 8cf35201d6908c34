//! Elementwise functions of two operands on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, code, number};
use crate::fuse::{Each, c_type};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// The functions, in the order of the list in `pair.h`.
pub(crate) const WORDS: &[&str] = &[
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

/// The function that does a word's work; truth values are bytes of 0 and 1.
fn by_bits(word: &str) -> &str {
    match word {
        "and" => "bit_and",
        "or" => "bit_or",
        "xor" => "bit_xor",
        other => other,
    }
}

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let space = t.space("shape", ["a_strides", "b_strides"]);
    let params = vec![code(WORDS, by_bits(t.word("op"))), space, t.at("a"), t.at("b"), t.at("y"), Param::I64(n as i64)];
    w.each(format!("binary_{}", t.kind("a")), n, params);
}

pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    let (word, dtype) = (by_bits(t.word("op")), t.dtype("a"));
    let function = match word {
        "equal" | "less" | "less_equal" | "greater" | "greater_equal" => "compare",
        _ if dtype.is_float() => "real",
        _ => "integer",
    };
    let value = format!("{function}<{}>({}, $0, $1)", c_type(dtype), number(WORDS, word));
    let light = !matches!(word, "div" | "pow" | "mod" | "fmod");
    Some(Each { light, ..t.each(vec![t.read_over("a", "a_strides"), t.read_over("b", "b_strides")], "y", value) })
}
