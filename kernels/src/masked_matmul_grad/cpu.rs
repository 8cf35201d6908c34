//! The gradient at trained entries on a CPU, where each is one contiguous dot product. The left operand is turned into `work`, channel
//! by channel, a band of tokens at a time; a task turns its channels of the right operand into its own memory, a piece at a time. Few
//! entries go another way. Operands in bfloat16 are turned as they are stored.

use super::few::Few;
use super::{Layout, TURNED, pitch};
use crate::sampled::{InPlace, Lines, Operands, Sampled, piece};
use crate::simd::{Job, Real, Turned, dispatch, turn_stored};
use crate::{Launch, Shared, Stored, for_rounded_pair, scratch};
use std::ops::Range;

/// Tokens that are summed at once, if there are more.
pub(super) const PIECE: usize = 128;
/// The same where the right operand is read where it lies.
const LONG: usize = 512;

pub(super) fn run(l: &Launch<'_>) {
    for_rounded_pair!(l.dtype("a"), l.dtype("b"), T, A, B => typed::<T, A, B>(l))
}

#[expect(unsafe_code, reason = "tasks write disjoint channels of the work memory, which is read when they have ended")]
fn typed<T: Real, A: Stored<T> + Turned, B: Stored<T> + Turned>(l: &Launch<'_>) {
    let [batch, n, rows, cols] = ["batch", "n", "rows", "cols"].map(|name| l.int(name));
    let layout = Layout::new(batch, n, rows, [l.int("a_t") != 0, l.int("b_t") != 0]);
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
    let Layout { batch, n, band, turned, .. } = layout;
    let work: Shared<'_, A> = Shared::new(bytemuck::cast_slice_mut(work));
    for image in 0..batch {
        let (a, b) = (&a[image * n * rows..][..n * rows], &b[image * n * cols..][..n * cols]);
        for from in (0..n).step_by(band) {
            let tokens = from..n.min(from + band);
            let (left, apart) = if turned[0] {
                let pitch = pitch(band, size_of::<A>());
                l.pool.run(rows.div_ceil(TURNED), |task, _| {
                    let channels = task * TURNED..rows.min((task + 1) * TURNED);
                    // SAFETY: tasks turn different channels, and none reads what is turned.
                    let target = unsafe { work.range(channels.start * pitch, channels.len() * pitch) };
                    TurnStored::of(a, rows, &tokens, &channels, target, pitch);
                });
                // SAFETY: the tasks that wrote it have ended.
                (unsafe { &*work.range(0, rows * pitch) }, pitch)
            } else {
                (&a[from..], n)
            };
            let add = image > 0 || from > 0;
            if turned[1] {
                let operands = Turning { left, apart, rows, right: b, cols, tokens };
                Sampled { idx, rows, cols, operands, add, out: &out }.run(l.pool);
            } else {
                let apart = [apart, n];
                let operands =
                    InPlace { left, right: &b[from..], apart, len: tokens.len(), most: LONG, group: [rows, cols] };
                Sampled { idx, rows, cols, operands, add, out: &out }.run(l.pool);
            }
        }
    }
}

/// A left operand of runs, and tokens of a right one.
struct Turning<'a, A, B> {
    left: &'a [A],
    /// Distance of its runs.
    apart: usize,
    rows: usize,
    /// The right operand of an image.
    right: &'a [B],
    cols: usize,
    /// Tokens of the left operand's runs.
    tokens: Range<usize>,
}

impl<A, B> Turning<'_, A, B> {
    /// Tokens of a piece.
    fn piece(&self) -> usize {
        piece(self.tokens.len(), PIECE)
    }

    /// Distance of turned channels of the right operand.
    fn pitch(&self) -> usize {
        pitch(self.piece(), size_of::<B>())
    }
}

impl<T, A: Stored<T>, B: Stored<T> + Turned> Operands<T> for Turning<'_, A, B> {
    type Left = A;
    type Right = B;
    /// Its first token, of those of the band.
    type Piece = usize;

    fn pieces(&self) -> impl Iterator<Item = usize> {
        (0..self.tokens.len()).step_by(self.piece())
    }

    fn lines(&self, first: usize) -> Lines {
        Lines { count: 1, len: self.piece().min(self.tokens.len() - first), left: 0, right: 0 }
    }

    #[inline(always)]
    fn left<'s>(&'s self, first: usize, row: usize, _: &'s mut [u8]) -> &'s [A] {
        self.source(first, row)
    }

    #[inline(always)]
    fn source(&self, first: usize, row: usize) -> &[A] {
        self.left.get(row * self.apart + first..).unwrap_or_default()
    }

    fn group(&self) -> usize {
        self.rows
    }

    fn unit(&self) -> (usize, usize) {
        (1, self.pitch() * size_of::<B>())
    }

    fn copies(&self) -> bool {
        true
    }

    fn right<'s>(&'s self, first: usize, _: &Range<usize>, columns: &Range<usize>, room: &'s mut [u8]) -> &'s [B] {
        let start = self.tokens.start + first;
        let tokens = start..self.tokens.end.min(start + self.piece());
        let turned = scratch::<B>(room, columns.len() * self.pitch());
        TurnStored::of(self.right, self.cols, &tokens, columns, turned, self.pitch());
        turned
    }

    fn starts(&self, _: &Range<usize>, starts: &mut [usize]) {
        for (i, start) in starts.iter_mut().enumerate() {
            *start = i * self.pitch();
        }
    }

    fn apart(&self, columns: &Range<usize>) -> usize {
        columns.len() * self.pitch()
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

impl<'a, S: Turned> TurnStored<'a, S> {
    /// Turns some channels of some tokens of `source`, which has `all` channels.
    fn of(
        source: &'a [S],
        all: usize,
        tokens: &Range<usize>,
        channels: &Range<usize>,
        target: &'a mut [S],
        pitch: usize,
    ) {
        let source = &source[tokens.start * all + channels.start..];
        dispatch(TurnStored { source, source_row: all, extents: [tokens.len(), channels.len()], target, pitch });
    }
}

impl<S: Turned> Job for TurnStored<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        turn_stored::<S, FMA>(self.source, self.source_row, self.extents, self.target, self.pitch);
    }
}
