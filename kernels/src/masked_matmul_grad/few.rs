//! The gradient at few trained entries on a CPU: a task takes a piece of the tokens, for all entries. It turns the operands a few
//! tokens at a time into scratch memory that its core's own cache holds, so that each is read from memory once. Sums of an entry are
//! read and written for each of these times, so that many entries cost more than reading operands again.
//!
//! Sums are the same as those of [`Sampled`](crate::sampled::Sampled), bit by bit.

use super::cpu::PIECE;
use super::{LINE, Layout};
use crate::grid::GRAIN;
use crate::sampled::{piece, step, widened};
use crate::simd::{Job, LANES, Real, TILE, Turned, dispatch, turn_stored};
use crate::{Pool, SCRATCH_BYTES, Shared, Stored};
use std::ops::Range;

/// Bytes that are turned at once, unless those of [`LANES`] tokens are more.
const NEAR: usize = 384 << 10;
/// Tokens that are turned at once, at most.
const MOST_TOKENS: usize = 64;
/// Tokens of a block that is turned.
const BLOCK: usize = 32;
/// Entries for each channel at most where [`MOST_TOKENS`] are turned at once, and fewer in proportion where fewer are, because sums are
/// read and written each time.
const ENTRIES: usize = 8;

/// The gradient of a weight whose operands are both token-major.
pub(super) struct Few<'a, A, B> {
    /// Positions of the entries.
    pub(super) idx: &'a [u32],
    /// Rows and columns of the weight.
    pub(super) channels: [usize; 2],
    /// Operands, tokens of channels.
    pub(super) a: &'a [A],
    pub(super) b: &'a [B],
}

impl<A: Turned, B: Turned> Few<'_, A, B> {
    /// Whether the entries are so few that a task should take all of them. Their sums do not depend on it.
    pub(super) fn pays<T>(&self, layout: &Layout, threads: usize) -> bool {
        let (entries, channels) = (self.idx.len(), self.channels[0] + self.channels[1]);
        let pieces = pieces(layout).count();
        let few = entries * MOST_TOKENS <= ENTRIES * channels * self.pitch();
        let room = pieces >= threads && pieces * entries <= layout.len;
        few && room && layout.turned == [true; 2] && self.parts::<T>().iter().sum::<usize>() <= SCRATCH_BYTES
    }

    /// Tokens that are turned at once, and the distance of turned channels.
    fn pitch(&self) -> usize {
        let [rows, cols] = self.channels;
        (NEAR / (rows * size_of::<A>() + cols * size_of::<B>()) / LANES * LANES).clamp(LANES, MOST_TOKENS)
    }

    /// Bytes of the parts of scratch memory: where the runs of the entries begin, their sums, and the turned operands. All
    /// begin at a cache line.
    fn parts<T>(&self) -> [usize; 4] {
        let ([rows, cols], pitch, entries) = (self.channels, self.pitch(), self.idx.len());
        let turned = (rows * pitch * size_of::<A>()).next_multiple_of(LINE);
        let starts = (entries * size_of::<[u32; 2]>()).next_multiple_of(LINE);
        [starts, entries * LANES * size_of::<T>(), turned, cols * pitch * size_of::<B>()]
    }

    /// Computes it. `work` has the elements of the layout.
    #[expect(unsafe_code, reason = "tasks write disjoint sums")]
    pub(super) fn run<T: Real>(&self, pool: &Pool, layout: &Layout, out: &Shared<'_, T>, work: &Shared<'_, T>)
    where
        A: Stored<T>,
        B: Stored<T>,
    {
        let entries = self.idx.len();
        let count = pieces(layout).count();
        pool.run(count, |task, bytes| {
            // SAFETY: each task has the sums of its piece.
            let sums = unsafe { work.range(task * entries, entries) };
            let tokens = pieces(layout).nth(task).unwrap_or_default();
            dispatch(Piece { of: self, tokens, bytes, sums });
        });
        // SAFETY: the tasks that wrote them have ended, and nothing else accesses the result.
        let (sums, out) = unsafe { (&*work.range(0, count * entries), out.range(0, entries)) };
        pool.chunks(out, GRAIN, |i, out| {
            let len = out.len();
            let mut pieces = sums.chunks_exact(entries).map(|sums| &sums[i * GRAIN..][..len]);
            if let Some(first) = pieces.next() {
                out.copy_from_slice(first);
            }
            for sums in pieces {
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += *sum);
            }
        });
    }
}

/// The tokens whose products are summed before their sums are added to those of others, in order.
fn pieces(layout: &Layout) -> impl Iterator<Item = Range<usize>> {
    let Layout { n, band, .. } = *layout;
    (0..n).step_by(band).flat_map(move |from| {
        let end = n.min(from + band);
        let piece = piece(end - from, PIECE);
        (from..end).step_by(piece).map(move |start| start..end.min(start + piece))
    })
}

/// The sums of all entries over one piece.
struct Piece<'a, 'b, T, A, B> {
    of: &'a Few<'b, A, B>,
    tokens: Range<usize>,
    bytes: &'a mut [u8],
    sums: &'a mut [T],
}

impl<T: Real, A: Stored<T> + Turned, B: Stored<T> + Turned> Job for Piece<'_, '_, T, A, B> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Piece { of, tokens, bytes, sums } = self;
        let Few { idx, channels: [rows, cols], a, b } = *of;
        let pitch = of.pitch();
        let [starts, lanes, left, right] = of.parts::<T>();
        let (starts, bytes) = bytes.split_at_mut(starts);
        let (lanes, bytes) = bytes.split_at_mut(lanes);
        let (left, bytes) = bytes.split_at_mut(left);
        let starts = &mut bytemuck::cast_slice_mut::<_, [u32; 2]>(starts)[..idx.len()];
        let lanes = bytemuck::cast_slice_mut::<_, T>(lanes).as_chunks_mut::<LANES>().0;
        let left = &mut bytemuck::cast_slice_mut::<_, A>(left)[..rows * pitch];
        let right = bytemuck::cast_slice_mut::<_, B>(&mut bytes[..right]);
        for (starts, &position) in starts.iter_mut().zip(idx) {
            *starts = [position / cols as u32 * pitch as u32, position % cols as u32 * pitch as u32];
        }
        lanes.fill([T::of(0.0); LANES]);
        for from in tokens.clone().step_by(pitch) {
            let count = pitch.min(tokens.end - from);
            near::<A, FMA>(&a[from * rows..], [count, rows], left, pitch);
            near::<B, FMA>(&b[from * cols..], [count, cols], right, pitch);
            let vectors = count.div_ceil(LANES);
            for (lanes, &[row, column]) in lanes.iter_mut().zip(&*starts) {
                let left = left[row as usize..].as_chunks::<LANES>().0;
                let right = right[column as usize..].as_chunks::<LANES>().0;
                for (left, right) in left[..vectors].iter().zip(&right[..vectors]) {
                    step::<T, FMA>(&widened(left), &widened(right), lanes);
                }
            }
        }
        for (sums, lanes) in sums.chunks_mut(TILE).zip(lanes.chunks(TILE)) {
            let mut tile = [[T::of(0.0); LANES]; TILE];
            tile[..lanes.len()].copy_from_slice(lanes);
            sums.copy_from_slice(&T::totals::<FMA>(tile)[..sums.len()]);
        }
    }
}

/// Turns some tokens, and makes what they leave of the last vector zero.
#[inline(always)]
fn near<S: Turned, const FMA: bool>(source: &[S], [tokens, channels]: [usize; 2], target: &mut [S], pitch: usize) {
    // The tokens of a block are read whole before the next, because they lie one after the other.
    for token in (0..tokens).step_by(BLOCK) {
        let height = BLOCK.min(tokens - token);
        let source = &source[token * channels..];
        turn_stored::<S, FMA>(source, channels, [height, channels], &mut target[token..], pitch);
    }
    let end = tokens.next_multiple_of(LANES);
    if tokens < end {
        target.chunks_exact_mut(pitch).for_each(|channel| channel[tokens..end].fill(S::zeroed()));
    }
}
