//! Sparse AdamW with 8-bit moments on a GPU.

use super::map::BLOCK;
use crate::cuda::{Cuda, THREADS, Task, Work};
use crate::sparse_adamw::cuda::{kind, params};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// A thread has one entry of a block.
const _: () = assert!(BLOCK == THREADS as usize);

fn plan(t: &Task<'_>, w: &mut Work) {
    let params = params(t, &["w", "idx", "p", "m", "v", "g", "hyper", "m_absmax", "v_absmax"]);
    w.blocks(format!("sparse_adamw_8bit_{}", kind(t)), t.len("idx").div_ceil(BLOCK), THREADS, params);
}
