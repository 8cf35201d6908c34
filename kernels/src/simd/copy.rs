//! Short copies.

/// Copies `from` to `to`, which have the same length; short copies take few instructions.
#[inline(always)]
pub(crate) fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    /// Copies `N` at a time; the last piece overlaps the one before.
    #[inline(always)]
    fn pieces<T: Copy, const N: usize>(from: &[T], to: &mut [T]) {
        let len = to.len();
        for (t, f) in to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
            *t = *f;
        }
        if let (Some(t), Some(f)) = (to[len - N..].first_chunk_mut::<N>(), from[len - N..].first_chunk::<N>()) {
            *t = *f;
        }
    }
    let from = &from[..to.len()];
    match to.len() {
        16.. => pieces::<T, 16>(from, to),
        8.. => pieces::<T, 8>(from, to),
        4.. => pieces::<T, 4>(from, to),
        2.. => pieces::<T, 2>(from, to),
        1 => to[0] = from[0],
        _ => {}
    }
}
