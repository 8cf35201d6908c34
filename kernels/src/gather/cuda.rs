//! Gathering on a GPU.

use crate::DType;
use crate::cuda::{Cuda, Param, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("y");
    let absent = match t.dtype("y") {
        DType::F32 => i64::from(f32::NAN.to_bits()),
        DType::F64 => f64::NAN.to_bits().cast_signed(),
        _ => 0,
    };
    let params = vec![
        t.at("x"),
        t.at("index"),
        t.at("y"),
        Param::I64(t.len("index") as i64),
        t.long("axis"),
        t.long("inner"),
        Param::I64(absent),
        Param::I64(n as i64),
    ];
    w.each(format!("gather_{}", t.width("x")), n, params);
}
