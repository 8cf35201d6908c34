//! Constants on a CPU.

use crate::grid::GRAIN;
use crate::{DType, Launch, for_element};

pub(super) fn run(l: &Launch<'_>) {
    let value = l.float("value");
    let value = if l.dtype("y") == DType::Bool { f64::from(u8::from(value != 0.0)) } else { value };
    for_element!(l.dtype("y"), T => {
        let value = value as T;
        l.pool.chunks(l.write::<T>("y"), GRAIN, |_, y| y.fill(value));
    })
}
