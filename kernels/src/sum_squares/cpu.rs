//! Sum of squares on a CPU: tasks add up ranges, whose sums are then added in order.

use crate::Launch;
use crate::rows::{Squares, reduce};
use crate::simd::dispatch;

pub(super) fn run(l: &Launch<'_>) {
    let g = l.read::<f32>("g");
    let sum = reduce(l.pool, g.len(), |range| dispatch(Squares(&g[range])));
    l.write::<f64>("sums")[l.int("slot")] = sum;
}
