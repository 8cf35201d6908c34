//! The gradient at few trained entries on a CPU: a task takes a piece of the tokens, for all entries. It turns the operands a few
//! tokens at a time into scratch memory that its core's own cache holds, so that each is read from memory once.
//!
//! Sums are the same as those of [`Sampled`](crate::sampled::Sampled), bit by bit.

use super::Layout;
use super::cpu::PIECE;
use crate::grid::GRAIN;
use crate::sampled::{piece, step};
use crate::simd::{Job, LANES, Real, TILE, dispatch, turn};
use crate::{Pool, SCRATCH_BYTES, Shared};
use std::ops::Range;

/// Elements that are turned at once, unless those of [`LANES`] tokens are more.
const NEAR: usize = 96 << 10;
/// Tokens that are turned at once, at most.
const MOST_TOKENS: usize = 64;

/// The gradient of a weight whose operands are both token-major.
pub(super) struct Few<'a, T> {
    /// Positions of the entries.
    pub(super) idx: &'a [u32],
    /// Rows and columns of the weight.
    pub(super) channels: [usize; 2],
    /// Operands, tokens of channels.
    pub(super) operands: [&'a [T]; 2],
}

impl<T: Real> Few<'_, T> {
    /// Whether the entries are so few that a task should take all of them. Their sums do not depend on it.
    pub(super) fn pays(&self, layout: &Layout, threads: usize) -> bool {
        let (entries, channels) = (self.idx.len(), self.channels[0] + self.channels[1]);
        let pieces = pieces(layout).count();
        let turned = layout.turned.iter().all(Option::is_some);
        turned && entries <= channels && pieces >= threads && pieces * entries <= layout.len && self.fits()
    }

    /// Tokens that are turned at once, and the distance of turned channels.
    fn pitch(&self) -> usize {
        (NEAR / (self.channels[0] + self.channels[1]) / LANES * LANES).clamp(LANES, MOST_TOKENS)
    }

    /// Bytes of the parts of scratch memory: where the runs of the entries begin, their sums, and the turned operands. All
    /// begin at a cache line.
    fn parts(&self) -> [usize; 3] {
        let (entries, turned) = (self.idx.len(), (self.channels[0] + self.channels[1]) * self.pitch());
        [entries.next_multiple_of(8) * size_of::<[u32; 2]>(), entries * LANES * size_of::<T>(), turned * size_of::<T>()]
    }

    fn fits(&self) -> bool {
        self.parts().iter().sum::<usize>() <= SCRATCH_BYTES
    }

    /// Computes it. `work` has the elements of the layout.
    #[expect(unsafe_code, reason = "tasks write disjoint sums")]
    pub(super) fn run(&self, pool: &Pool, layout: &Layout, out: &Shared<'_, T>, work: &Shared<'_, T>) {
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
struct Piece<'a, 'b, T> {
    of: &'a Few<'b, T>,
    tokens: Range<usize>,
    bytes: &'a mut [u8],
    sums: &'a mut [T],
}

impl<T: Real> Job for Piece<'_, '_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Piece { of, tokens, bytes, sums } = self;
        let Few { idx, channels: [rows, cols], operands } = *of;
        let pitch = of.pitch();
        let [starts, lanes, turned] = of.parts();
        let (starts, bytes) = bytes.split_at_mut(starts);
        let (lanes, bytes) = bytes.split_at_mut(lanes);
        let starts = &mut bytemuck::cast_slice_mut::<_, [u32; 2]>(starts)[..idx.len()];
        let lanes = bytemuck::cast_slice_mut::<_, T>(lanes).as_chunks_mut::<LANES>().0;
        let turned = bytemuck::cast_slice_mut::<_, T>(&mut bytes[..turned]);
        for (starts, &position) in starts.iter_mut().zip(idx) {
            let (row, column) = (position / cols as u32, position % cols as u32);
            *starts = [row * pitch as u32, (rows as u32 + column) * pitch as u32];
        }
        lanes.fill([T::of(0.0); LANES]);
        for from in tokens.clone().step_by(pitch) {
            let count = pitch.min(tokens.end - from);
            let len = count.next_multiple_of(LANES);
            for (source, first, channels) in [(operands[0], 0, rows), (operands[1], rows, cols)] {
                for token in (0..count).step_by(LANES) {
                    let (height, target) = (LANES.min(count - token), &mut turned[first * pitch + token..]);
                    let source = &source[(from + token) * channels..];
                    turn::<T, T, FMA>(source, channels, [height, channels], target, pitch);
                    if height < LANES {
                        for channel in 0..channels {
                            target[channel * pitch + height..channel * pitch + LANES].fill(T::of(0.0));
                        }
                    }
                }
            }
            for (lanes, &[left, right]) in lanes.iter_mut().zip(&*starts) {
                let [left, right] = [left, right].map(|start| turned[start as usize..][..len].as_chunks::<LANES>().0);
                for (left, right) in left.iter().zip(right) {
                    step::<T, FMA>(left, right, lanes);
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
