//! The gradient at trained entries on a CPU. The left operand is turned into `work`, channel by channel, a band of tokens at
//! a time. A task then owns the entries of some columns: it turns those columns of the right operand into its scratch
//! memory, a chunk of tokens at a time, and computes one dot product for each entry.

use super::{TOKENS, band};
use crate::sampled::{ROWS, Sampled, locate};
use crate::simd::{Real, Turn, dispatch};
use crate::{Launch, SCRATCH_BYTES, for_float, scratch};

/// Columns of a task at most.
const COLUMNS: usize = 192;
/// Tasks that there should be at least.
const TASKS: usize = 8;
/// Columns of a task at least, if there are so many.
const LEAST_COLUMNS: usize = 48;
/// Channels of the left operand that a task turns.
const TURNED: usize = 64;
/// Elements between rows of turned operands, because rows a large power of two apart would share cache sets.
const GAP: usize = 16;
const _: () = assert!((TOKENS + GAP) * COLUMNS * size_of::<f64>() + ROWS * 2 * size_of::<u32>() <= SCRATCH_BYTES);

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dp"), T => typed::<T>(l))
}

#[expect(unsafe_code, reason = "tasks write disjoint rows of the work memory")]
fn typed<T: Real>(l: &Launch<'_>) {
    let (batch, n, rows, cols) = (l.int("batch"), l.int("n"), l.int("rows"), l.int("cols"));
    let (a_t, b_t) = (l.int("a_t") != 0, l.int("b_t") != 0);
    let (a, b, idx) = (l.read::<T>("a"), l.read::<T>("b"), l.read::<u32>("idx"));
    if idx.is_empty() {
        return;
    }
    let out = l.write::<T>("dp");
    if batch * n == 0 {
        out[..idx.len()].fill(T::of(0.0));
        return;
    }
    let out = crate::Shared::new(out);
    // Without channel-major operands the batch is one long run of tokens.
    let (batch, n) = if a_t || b_t { (batch, n) } else { (1, batch * n) };
    let (step, pitch) = if a_t { (n, n) } else { band(batch, n, rows, b_t) };
    let work = if a_t { None } else { Some(l.shared::<T>("work")) };
    let panel_pitch = TOKENS.min(n).next_multiple_of(16) + GAP;
    let parts = cols.div_ceil(COLUMNS).max(TASKS.min(cols.div_ceil(LEAST_COLUMNS)));
    let width = cols.div_ceil(parts).next_multiple_of(8).min(COLUMNS);
    for image in 0..batch {
        let a = &a[image * n * rows..][..n * rows];
        let b = &b[image * n * cols..][..n * cols];
        for from in (0..n).step_by(step) {
            let tokens = step.min(n - from);
            if let Some(work) = &work {
                l.pool.run(rows.div_ceil(TURNED), |task, _| {
                    let first = task * TURNED;
                    let count = TURNED.min(rows - first);
                    // SAFETY: tasks turn different channels.
                    let target = unsafe { work.range(first * pitch, count * pitch) };
                    let source = &a[from * rows + first..];
                    dispatch(Turn { source, source_row: rows, rows: tokens, cols: count, target, target_row: pitch });
                });
            }
            let left = match &work {
                // SAFETY: the tasks that wrote it have ended.
                Some(work) => unsafe { &*work.range(0, rows * pitch) },
                None => &a[from..],
            };
            l.pool.run(cols.div_ceil(width), |task, bytes| {
                let columns = task * width..cols.min((task + 1) * width);
                let (table, panel) = bytes.split_at_mut(ROWS * 2 * size_of::<u32>());
                let table: &mut [u32] = bytemuck::cast_slice_mut(table);
                for first in (0..rows).step_by(ROWS) {
                    let rows = first..rows.min(first + ROWS);
                    locate(idx, cols, rows.clone(), &columns, table);
                    for start in (0..tokens).step_by(TOKENS) {
                        let len = TOKENS.min(tokens - start);
                        let (right, base, right_pitch) = if b_t {
                            (b, columns.start * n + from + start, n)
                        } else {
                            let target = scratch::<T>(&mut *panel, columns.len() * panel_pitch);
                            let source = &b[(from + start) * cols + columns.start..];
                            dispatch(Turn {
                                source,
                                source_row: cols,
                                rows: len,
                                cols: columns.len(),
                                target: &mut *target,
                                target_row: panel_pitch,
                            });
                            (&*target, 0, panel_pitch)
                        };
                        dispatch(Sampled {
                            idx,
                            row_len: cols,
                            rows: rows.clone(),
                            table,
                            left,
                            left_at: |row| (row * pitch + start, base),
                            right,
                            right_at: |column| (column as usize - columns.start) * right_pitch,
                            len,
                            add: image > 0 || from > 0 || start > 0,
                            out: &out,
                        });
                    }
                }
            });
        }
    }
}
