//! Conversions on a GPU.

use crate::DType;
use crate::cuda::{Cuda, Param, Task, Work, code};
use crate::fuse::{Each, c_type};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// The element types, in the order of the list in `kernel.cu`.
const KINDS: &[&str] = &["f32", "f64", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool", "bf16", "f16"];

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let params = vec![code(KINDS, t.dtype("y").name()), t.at("x"), t.at("y"), Param::I64(n as i64)];
    w.each(format!("cast_{}", t.kind("x")), n, params);
}

pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    let to = t.dtype("y");
    let value = match to {
        DType::Bool => "plain($0) != decltype(plain($0))(0)".to_owned(),
        half if half.is_half() => format!("stored<{half}>(convert<f32>(plain($0)))"),
        _ => format!("convert<{}>(plain($0))", c_type(to)),
    };
    Some(t.each(vec![t.read("x")], "y", value))
}
