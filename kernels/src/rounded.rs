//! Numbers that may be stored rounded to bfloat16, a part at a time in single precision for functions that know only that.

use crate::Stored;
use crate::simd::{Job, dispatch};

/// Numbers of a part at most.
pub(crate) const PART: usize = 512;

/// A function of two parts that writes a third.
pub(crate) type OfTwo<'f> = dyn Fn(&[f32], &[f32], &mut [f32]) + Sync + 'f;

/// Memory for a part.
pub(crate) type Part = [f32; PART];

/// The numbers of a part, in `to`.
pub(crate) fn widen<'a, S: Stored<f32>>(from: &[S], to: &'a mut Part) -> &'a mut [f32] {
    let to = &mut to[..from.len()];
    dispatch(Map { from, to: &mut *to, each: S::wide });
    to
}

/// Stores a part.
pub(crate) fn narrow<S: Stored<f32>>(from: &[f32], to: &mut [S]) {
    dispatch(Map { from, to, each: S::narrow });
}

/// `to[i] = each(from[i])`.
pub(crate) struct Map<'a, S, T, F> {
    pub(crate) from: &'a [S],
    pub(crate) to: &'a mut [T],
    pub(crate) each: F,
}

impl<S: Copy, T, F: Fn(S) -> T> Job for Map<'_, S, T, F> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = (self.each)(*from);
        }
    }
}
