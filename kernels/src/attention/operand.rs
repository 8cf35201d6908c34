//! What attention of half precision reads and writes: numbers in single precision, or rounded to bfloat16 already.

use crate::pairs::{pack_panel, pack_rows};
use crate::product::Mat;
use crate::simd::{Job, LANES, Real, dispatch, total, turn};
use crate::tile::{PANEL, Pair, pair};
use crate::{DType, Launch, Shared, Stored};
use half::bf16;

/// Numbers that are read.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// In single precision.
    Single(&'a [f32]),
    /// Rounded.
    Half(&'a [bf16]),
}

/// Calls a generic function on the numbers of an [`Operand`].
macro_rules! of_either {
    ($operand:expr, $data:ident => $body:expr) => {
        match $operand {
            Operand::Single($data) => $body,
            Operand::Half($data) => $body,
        }
    };
}

impl<'a> Operand<'a> {
    /// The argument `name`.
    pub(crate) fn of(l: &Launch<'a>, name: &str) -> Self {
        match l.dtype(name) {
            DType::Bf16 => Operand::Half(l.read(name)),
            _ => Operand::Single(l.read(name)),
        }
    }

    /// The numbers from the element `at` on.
    pub(crate) fn from(self, at: usize) -> Self {
        match self {
            Operand::Single(data) => Operand::Single(&data[at..]),
            Operand::Half(data) => Operand::Half(&data[at..]),
        }
    }

    /// [`pack_rows`] of the matrix whose rows and columns are `rs` and `cs` apart.
    pub(crate) fn pack_rows(self, [rs, cs]: [usize; 2], [rows, terms]: [usize; 2], to: &mut [Pair], line: usize) {
        of_either!(self, data => pack_rows(Mat::new(data, rs, cs), rows, terms, to, line));
    }

    /// [`pack_panel`] of the matrix whose rows and columns are `rs` and `cs` apart.
    pub(crate) fn pack_panel(self, [rs, cs]: [usize; 2], [columns, terms]: [usize; 2], to: &mut [Pair], width: usize) {
        of_either!(self, data => pack_panel(Mat::new(data, rs, cs), columns, terms, to, width));
    }

    /// The dot products of its rows with those of another, of `width` numbers each, times `factor`. A NaN becomes one that
    /// rounding keeps.
    pub(crate) fn dots(self, other: Self, width: usize, factor: f32, to: &mut [f32]) {
        of_either!(self, a => of_either!(other, b => dispatch(Dots { a, b, width, factor, to })));
    }
}

/// [`Operand::dots`] of numbers of two types.
struct Dots<'a, A, B> {
    a: &'a [A],
    b: &'a [B],
    width: usize,
    factor: f32,
    to: &'a mut [f32],
}

impl<A: Stored<f32>, B: Stored<f32>> Job for Dots<'_, A, B> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Dots { a, b, width, factor, to } = self;
        for (i, to) in to.iter_mut().enumerate() {
            let row = i * width..(i + 1) * width;
            let ((a, a_rest), (b, b_rest)) = (a[row.clone()].as_chunks::<LANES>(), b[row].as_chunks::<LANES>());
            let mut sums = [0.0; LANES];
            for (a, b) in a.iter().zip(b) {
                for l in 0..LANES {
                    sums[l] = a[l].wide().madd::<FMA>(b[l].wide(), sums[l]);
                }
            }
            for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
                *sum = a.wide().madd::<FMA>(b.wide(), *sum);
            }
            *to = factor * total(sums);
            *to = if to.is_nan() { f32::NAN } else { *to };
        }
    }
}

/// Where numbers are written, each rounded to nearest if so stored.
pub(crate) enum Target<'a> {
    /// In single precision.
    Single(&'a mut [f32]),
    /// Rounded.
    Half(&'a mut [bf16]),
}

impl Target<'_> {
    /// Writes zeros.
    pub(crate) fn clear(&mut self) {
        match self {
            Target::Single(to) => to.fill(0.0),
            Target::Half(to) => to.fill(bf16::ZERO),
        }
    }

    /// Writes the columns of a panel, each a row of `width` numbers, the first at the element `at`. The panel is overwritten.
    pub(crate) fn turn_panel(&mut self, at: usize, [columns, width]: [usize; 2], panel: &mut [f32]) {
        let panel = &mut panel[..width * PANEL];
        match self {
            Target::Single(to) => dispatch(Columns { panel, columns, width, to: &mut to[at..] }),
            Target::Half(to) => dispatch(Columns { panel, columns, width, to: &mut to[at..] }),
        }
    }

    /// Writes rows of `width` numbers, which are `pitch` apart, one after the other, the first at the element `at`.
    pub(crate) fn rows(&mut self, at: usize, [rows, width]: [usize; 2], from: &[f32], pitch: usize) {
        match self {
            Target::Single(to) => dispatch(Rows { from, pitch, width, to: &mut to[at..][..rows * width] }),
            Target::Half(to) => dispatch(Rows { from, pitch, width, to: &mut to[at..][..rows * width] }),
        }
    }
}

/// A [`Target`] that several tasks write at disjoint places.
pub(crate) enum SharedTarget<'a> {
    /// In single precision.
    Single(Shared<'a, f32>),
    /// Rounded.
    Half(Shared<'a, bf16>),
}

impl<'a> SharedTarget<'a> {
    /// The argument `name`, which is asked for once in a launch.
    pub(crate) fn of(l: &Launch<'a>, name: &str) -> Self {
        match l.dtype(name) {
            DType::Bf16 => SharedTarget::Half(l.shared(name)),
            _ => SharedTarget::Single(l.shared(name)),
        }
    }

    /// A part of it.
    ///
    /// # Safety
    /// No other task may access those elements meanwhile.
    #[expect(unsafe_code, reason = "tasks write disjoint ranges")]
    pub(crate) unsafe fn range(&self, start: usize, len: usize) -> Target<'_> {
        // SAFETY: by the caller's promise.
        unsafe {
            match self {
                SharedTarget::Single(all) => Target::Single(all.range(start, len)),
                SharedTarget::Half(all) => Target::Half(all.range(start, len)),
            }
        }
    }
}

/// [`Target::turn_panel`].
struct Columns<'a, W> {
    panel: &'a mut [f32],
    columns: usize,
    width: usize,
    to: &'a mut [W],
}

impl Job for Columns<'_, f32> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Columns { panel, columns, width, to } = self;
        turn::<f32, f32, FMA>(panel, PANEL, [width, columns], to, width);
    }
}

impl Job for Columns<'_, bf16> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Columns { panel, columns, width, to } = self;
        let to = &mut to[..columns * width];
        // Neighbouring numbers of a row can be moved as one where a pair begins with each row.
        if width.is_multiple_of(2) && bytemuck::try_cast_slice_mut::<bf16, Pair>(to).is_ok() {
            for p in 0..width / 2 {
                let (mut first, mut second) = ([0.0; PANEL], [0.0; PANEL]);
                first.copy_from_slice(&panel[2 * p * PANEL..][..PANEL]);
                second.copy_from_slice(&panel[(2 * p + 1) * PANEL..][..PANEL]);
                for (to, (first, second)) in panel[p * PANEL..][..PANEL].iter_mut().zip(first.iter().zip(second)) {
                    *to = pair(*first, second);
                }
            }
            return turn::<f32, f32, FMA>(panel, PANEL, [width / 2, columns], bytemuck::cast_slice_mut(to), width / 2);
        }
        for (i, to) in to.chunks_exact_mut(width.max(1)).enumerate() {
            for (j, to) in to.iter_mut().enumerate() {
                *to = bf16::narrow(panel[j * PANEL + i]);
            }
        }
    }
}

/// [`Target::rows`].
struct Rows<'a, W> {
    from: &'a [f32],
    pitch: usize,
    width: usize,
    to: &'a mut [W],
}

impl<W: Stored<f32>> Job for Rows<'_, W> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Rows { from, pitch, width, to } = self;
        for (to, from) in to.chunks_exact_mut(width.max(1)).zip(from.chunks(pitch.max(1))) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = W::narrow(*from));
        }
    }
}
