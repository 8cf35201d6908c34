//! Sparse AdamW on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};
use crate::hyper;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// Places of hyper-parameters, in the order of `Places` in `kernel.cu`.
const PLACES: [usize; 10] = [
    hyper::CLIP,
    hyper::LEARNING_RATE,
    hyper::WEIGHT_DECAY,
    hyper::BETA1,
    hyper::BETA2,
    hyper::REST1,
    hyper::REST2,
    hyper::CORRECTION1,
    hyper::CORRECTION2,
    hyper::EPSILON,
];

fn plan(t: &Task<'_>, w: &mut Work) {
    let n = t.len("idx");
    let mut params: Vec<Param> = ["w", "idx", "p", "m", "v", "g", "hyper"].map(|name| t.at(name)).to_vec();
    params.extend([Param::Struct(PLACES.map(|v| v as i64).to_vec()), Param::I64(n as i64)]);
    // Without a weight its type does not matter.
    let kind = if t.has("w") { t.kind("w") } else { "f32" };
    w.each(format!("sparse_adamw_{kind}"), n, params);
}
