//! The gradient at trained entries on a CPU. Operands are turned into `work`, channel by channel, a band of tokens at a time; then
//! each entry is one contiguous dot product. Few entries go another way.

use super::few::Few;
use super::{Layout, TURNED};
use crate::sampled::Sampled;
use crate::simd::{Real, Turn, dispatch};
use crate::{Launch, Shared, for_float};

/// Tokens that are summed at once, if there are more.
pub(super) const PIECE: usize = 512;

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dp"), T => typed::<T>(l))
}

#[expect(unsafe_code, reason = "tasks write disjoint channels of the work memory")]
fn typed<T: Real>(l: &Launch<'_>) {
    let [batch, n, rows, cols] = ["batch", "n", "rows", "cols"].map(|name| l.int(name));
    let layout = Layout::new(batch, n, [rows, cols], [l.int("a_t") != 0, l.int("b_t") != 0]);
    let idx = l.read::<u32>("idx");
    if idx.is_empty() {
        return;
    }
    let out = l.write::<T>("dp");
    if batch * n == 0 {
        out[..idx.len()].fill(T::of(0.0));
        return;
    }
    let (out, work) = (Shared::new(out), l.shared::<T>("work"));
    let operands = [l.read::<T>("a"), l.read::<T>("b")];
    let few = Few { idx, channels: [rows, cols], operands };
    if few.pays(&layout, l.pool.threads()) {
        return few.run(l.pool, &layout, &out, &work);
    }
    let Layout { batch, n, .. } = layout;
    for image in 0..batch {
        for from in (0..n).step_by(layout.band) {
            let tokens = layout.band.min(n - from);
            let channels = [rows, cols];
            let sources = [0, 1].map(|o| &operands[o][image * n * channels[o]..][..n * channels[o]]);
            let tasks = [0, 1].map(|o| if layout.turned[o].is_some() { channels[o].div_ceil(TURNED) } else { 0 });
            l.pool.run(tasks[0] + tasks[1], |task, _| {
                let (o, first) = if task < tasks[0] { (0, task * TURNED) } else { (1, (task - tasks[0]) * TURNED) };
                let count = TURNED.min(channels[o] - first);
                let start = layout.turned[o].unwrap_or_default() + first * layout.pitch;
                // SAFETY: tasks turn different channels.
                let target = unsafe { work.range(start, count * layout.pitch) };
                let source = &sources[o][from * channels[o] + first..];
                let (source_row, target_row) = (channels[o], layout.pitch);
                dispatch(Turn { source, source_row, rows: tokens, cols: count, target, target_row });
            });
            // Where each operand is, and the distance of its channels.
            let [(left, left_pitch), (right, right_pitch)] = [0, 1].map(|o| match layout.turned[o] {
                // SAFETY: the tasks that wrote it have ended.
                Some(start) => (unsafe { &*work.range(start, channels[o] * layout.pitch) }, layout.pitch),
                None => (&sources[o][from..], n),
            });
            Sampled {
                idx,
                rows,
                cols,
                taps: 1,
                left,
                left_at: |row| (row * left_pitch, 0),
                right,
                tap_at: |_| 0,
                right_pitch,
                len: tokens,
                line: tokens,
                right_line: 0,
                piece: PIECE,
                add: image > 0 || from > 0,
                out: &out,
            }
            .run(l.pool);
        }
    }
}
