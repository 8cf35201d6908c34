//! Clipping of the norm on a GPU.

use crate::cuda::{Cuda, Param, Task, Work};
use crate::hyper::{CLIP, MAX_NORM, NORM};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let mut params = vec![t.at("sums"), t.at("hyper")];
    params.extend([t.len("sums"), MAX_NORM, NORM, CLIP].map(|v| Param::I64(v as i64)));
    w.blocks("clip_norm", 1, 32, params);
}
