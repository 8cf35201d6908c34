//! The gradient at trained entries on a CPU. Operands are turned into `work`, channel by channel, a band of tokens at a time; then
//! each entry is one contiguous dot product. Few entries go another way. Operands in bfloat16 are turned as they are stored.

use super::few::Few;
use super::{Layout, TURNED, pitch};
use crate::sampled::{InPlace, Sampled};
use crate::simd::{Job, Real, Turned, dispatch, turn_stored};
use crate::{Launch, Shared, Stored, for_rounded_pair};
use std::ops::Range;

/// Tokens that are summed at once, if there are more.
pub(super) const PIECE: usize = 512;

pub(super) fn run(l: &Launch<'_>) {
    for_rounded_pair!(l.dtype("a"), l.dtype("b"), T, A, B => typed::<T, A, B>(l))
}

#[expect(unsafe_code, reason = "tasks write disjoint channels of the work memory")]
fn typed<T: Real, A: Stored<T> + Turned, B: Stored<T> + Turned>(l: &Launch<'_>) {
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
    let (out, work) = (Shared::new(out), l.write::<T>("work"));
    let (a, b) = (l.read::<A>("a"), l.read::<B>("b"));
    let few = Few { idx, channels: [rows, cols], a, b };
    if few.pays::<T>(&layout, l.pool.threads()) {
        return few.run::<T>(l.pool, &layout, &out, &Shared::new(work));
    }
    let Layout { batch, n, band, turned, second, .. } = layout;
    let (first, second) = work.split_at_mut(second);
    let memory: (Shared<'_, A>, Shared<'_, B>) =
        (Shared::new(bytemuck::cast_slice_mut(first)), Shared::new(bytemuck::cast_slice_mut(second)));
    for image in 0..batch {
        let (a, b) = (&a[image * n * rows..][..n * rows], &b[image * n * cols..][..n * cols]);
        for from in (0..n).step_by(band) {
            let tokens = band.min(n - from);
            let a = Channels { source: a, n, channels: rows, tokens: from..from + tokens, band };
            let b = Channels { source: b, n, channels: cols, tokens: from..from + tokens, band };
            let tasks = [a.tasks(turned[0]), b.tasks(turned[1])];
            l.pool.run(tasks[0] + tasks[1], |task, _| {
                // SAFETY: tasks turn different channels, and none reads what is turned.
                unsafe {
                    match task.checked_sub(tasks[0]) {
                        None => a.turn(task, &memory.0),
                        Some(task) => b.turn(task, &memory.1),
                    }
                }
            });
            // SAFETY: the tasks that wrote it have ended.
            let ((left, left_pitch), (right, right_pitch)) =
                unsafe { (a.lines(turned[0], &memory.0), b.lines(turned[1], &memory.1)) };
            let operands = InPlace {
                left,
                right,
                apart: [left_pitch, right_pitch],
                len: tokens,
                most: PIECE,
                group: [rows, cols],
            };
            Sampled { idx, rows, cols, operands, add: image > 0 || from > 0, out: &out }.run(l.pool);
        }
    }
}

/// A band of an operand's tokens.
struct Channels<'a, S> {
    /// The operand of an image.
    source: &'a [S],
    /// Tokens of an image.
    n: usize,
    channels: usize,
    tokens: Range<usize>,
    /// Tokens of a band at most.
    band: usize,
}

impl<S: Turned> Channels<'_, S> {
    /// Distance of turned channels.
    fn pitch(&self) -> usize {
        pitch(self.band, size_of::<S>())
    }

    /// Tasks that turn it, if it is to be.
    fn tasks(&self, turned: bool) -> usize {
        if turned { self.channels.div_ceil(TURNED) } else { 0 }
    }

    /// Turns the channels of a task into work memory.
    ///
    /// # Safety
    /// No other task may access the task's channels meanwhile.
    #[expect(unsafe_code, reason = "tasks write disjoint channels of the work memory")]
    unsafe fn turn(&self, task: usize, memory: &Shared<'_, S>) {
        let first = task * TURNED;
        let count = TURNED.min(self.channels - first);
        let pitch = self.pitch();
        // SAFETY: the caller's promise.
        let target = unsafe { memory.range(first * pitch, count * pitch) };
        let source = &self.source[self.tokens.start * self.channels + first..];
        let extents = [self.tokens.len(), count];
        dispatch(TurnStored { source, source_row: self.channels, extents, target, pitch });
    }

    /// Memory in which neighbours are tokens of a channel, and the distance of channels.
    ///
    /// # Safety
    /// Nothing may write the work memory while the result is used.
    #[expect(unsafe_code, reason = "the work memory is read when it is written")]
    unsafe fn lines<'b>(&'b self, turned: bool, memory: &'b Shared<'_, S>) -> (&'b [S], usize) {
        if turned {
            // SAFETY: the caller's promise.
            (unsafe { &*memory.range(0, self.channels * self.pitch()) }, self.pitch())
        } else {
            (&self.source[self.tokens.start..], self.n)
        }
    }
}

/// [`turn_stored`] as a job.
struct TurnStored<'a, S> {
    source: &'a [S],
    source_row: usize,
    extents: [usize; 2],
    target: &'a mut [S],
    pitch: usize,
}

impl<S: Turned> Job for TurnStored<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        turn_stored::<S, FMA>(self.source, self.source_row, self.extents, self.target, self.pitch);
    }
}
