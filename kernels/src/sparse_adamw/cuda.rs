//! Sparse AdamW on a GPU, and what its form with 8-bit moments shares.

use crate::cuda::{Cuda, Param, Task, Work};
use crate::hyper;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// Places of hyper-parameters, in the order of `Places` in `adamw.h`.
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
    let params = params(t, &["w", "idx", "p", "m", "v", "g", "hyper"]);
    w.each(format!("sparse_adamw_{}", kind(t)), t.len("idx"), params);
}

/// The arguments, the places and the number of entries.
pub(crate) fn params(t: &Task<'_>, args: &[&str]) -> Vec<Param> {
    let mut params: Vec<Param> = args.iter().map(|name| t.at(name)).collect();
    params.extend([Param::Struct(PLACES.map(|v| v as i64).to_vec()), Param::long(t.len("idx"))]);
    params
}

/// The name of the weight's type in the names of entry points. Without a weight it does not matter.
pub(crate) fn kind(t: &Task<'_>) -> &'static str {
    if t.has("w") { t.kind("w") } else { "f32" }
}
