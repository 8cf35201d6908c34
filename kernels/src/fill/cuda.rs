//! Constants on a GPU.

use crate::DType;
use crate::cuda::{Cuda, Param, Task, Work, whole};
use crate::fuse::{Each, literal};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let value = t.float("value");
    let bits = match t.dtype("y") {
        DType::Bool => i64::from(value != 0.0),
        DType::F32 => i64::from((value as f32).to_bits()),
        DType::F64 => value.to_bits().cast_signed(),
        other => whole(value, other),
    };
    w.each(format!("fill_{}", t.width("y")), n, vec![t.at("y"), Param::I64(bits), Param::I64(n as i64)]);
}

pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    Some(t.each(Vec::new(), "y", literal(t.float("value"), t.dtype("y"))?))
}
