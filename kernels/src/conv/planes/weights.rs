//! The weights, tap by tap, in blocks of rows and pairs as [`Shifted`](crate::tile::Shifted) reads them.

use super::{BLOCK, Planes, TAPS};
use crate::simd::{Job, prefetch, turn_stored};
use crate::tile::{Ahead, Pair, SIDE};
use half::bf16;
use std::ops::Range;

/// Source channels of a block.
const TERMS: usize = 2 * SIDE;
/// Source channels ahead of which weights are fetched, and weights of a cache line.
const AHEAD: usize = 16;
const LINE: usize = 32;

/// Packs the weights of some result channels: for each step of [`TERMS`] source channels and each tap a block of `height` rows, of which
/// those beyond the channels are zero.
pub(super) struct PackWeights<'a> {
    pub(super) p: &'a Planes,
    /// Numbers in bfloat16.
    pub(super) weights: &'a [u16],
    pub(super) channels: Range<usize>,
    pub(super) height: usize,
    pub(super) steps: Range<usize>,
    pub(super) to: &'a mut [Pair],
    pub(super) turned: &'a mut [Pair],
}

impl Job for PackWeights<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let PackWeights { p, weights, channels, height, steps, to, turned } = self;
        let (taps, places, block) = (p.taps, p.places(), height * SIDE);
        let terms = |step: usize| (step * TERMS).min(p.sources)..p.sources.min((step + 1) * TERMS);
        let mut by_tap = [[0; TERMS]; TAPS];
        if !p.backward {
            let to: &mut [u16] = bytemuck::cast_slice_mut(to);
            for row in 0..height {
                for (step, to) in steps.clone().zip(to.chunks_exact_mut(2 * places.len() * block)) {
                    let terms = terms(step);
                    let from = match channels.clone().nth(row) {
                        Some(r) => {
                            let at = (r * p.sources + terms.start) * taps;
                            for line in (0..terms.len() * taps).step_by(LINE) {
                                // The next channel's, which are not fetched ahead otherwise: they are in other pages.
                                prefetch(weights, at + p.sources * taps + line);
                            }
                            &weights[at..][..terms.len() * taps]
                        }
                        None => &[],
                    };
                    split(from, taps, |tap, values| by_tap[tap] = *values);
                    for (t, place) in places.iter().enumerate() {
                        to[t * 2 * block + row * TERMS..][..TERMS].copy_from_slice(&by_tap[*place]);
                    }
                }
            }
            return;
        }
        let turned: &mut [bf16] = bytemuck::cast_slice_mut(turned);
        let to: &mut [bf16] = bytemuck::cast_slice_mut(to);
        for (step, to) in steps.zip(to.chunks_exact_mut(2 * places.len() * block)) {
            let terms = terms(step);
            // Neighbours in memory are result channels here, until they are turned.
            for term in 0..TERMS {
                let start = |o: usize| (o * p.results + channels.start) * taps;
                let from = match terms.clone().nth(term) {
                    Some(o) => &weights[start(o)..][..channels.len() * taps],
                    None => &[],
                };
                for line in (0..channels.len() * taps).step_by(LINE) {
                    // What lies far apart is not fetched ahead otherwise.
                    prefetch(weights, start(terms.start + term + AHEAD) + line);
                }
                split(from, taps, |tap, values| by_tap[tap] = *values);
                for (t, place) in places.iter().enumerate() {
                    let to = &mut turned[(t * TERMS + term) * TERMS..][..TERMS];
                    to.copy_from_slice(bytemuck::cast_slice(&by_tap[*place]));
                }
            }
            for (to, turned) in to.chunks_exact_mut(2 * block).zip(turned.chunks_exact(TERMS * TERMS)) {
                turn_stored::<bf16, FMA>(turned, TERMS, [TERMS, height], to, TERMS);
            }
        }
    }
}

/// Where the weights lie that are packed for the result channels from `channel` on.
pub(super) fn ahead(p: &Planes, weights: &[u16], channel: usize, steps: Range<usize>) -> Ahead {
    let terms = steps.start * TERMS..p.sources.min(steps.end * TERMS);
    let channels = p.results.saturating_sub(channel).min(BLOCK);
    let (taps, across) = (p.taps, if p.backward { p.results } else { p.sources });
    let [outer, inner] =
        if p.backward { [terms, channel..channel + channels] } else { [channel..channel + channels, terms] };
    let start = (outer.start * across + inner.start) * taps;
    Ahead::new(weights, start, outer.len(), inner.len() * taps, across * taps)
}

/// Gives for each tap the values of [`TERMS`] channels, whose taps are neighbours; channels that are not there have zeros.
#[inline(always)]
fn split(from: &[u16], taps: usize, mut give: impl FnMut(usize, &[u16; TERMS])) {
    #[cfg(target_arch = "x86_64")]
    if let (9, Ok(from)) = (taps, from.as_chunks().0.try_into())
        && let Some(values) = nine(from)
    {
        return values.iter().enumerate().for_each(|(tap, values)| give(tap, values));
    }
    for tap in 0..taps {
        let mut values = [0; TERMS];
        for (value, from) in values.iter_mut().zip(from.chunks_exact(taps)) {
            *value = from[tap];
        }
        give(tap, &values);
    }
}

/// The values of each tap where there are nine, if the processor has the means to permute them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "calls code compiled for features that were found")]
fn nine(from: &[[u16; TERMS]; 9]) -> Option<[[u16; TERMS]; 9]> {
    // SAFETY: the processor has every feature that the function enables.
    is_x86_feature_detected!("avx512bw").then(|| unsafe { x86::nine(from) })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::TERMS;
    use std::arch::x86_64::*;

    /// Where the value of a tap and a channel is: its vector and its place there.
    const fn place(tap: usize, channel: usize) -> [usize; 2] {
        [(9 * channel + tap) / TERMS, (9 * channel + tap) % TERMS]
    }

    const PLACES: [[u16; TERMS]; 9] = {
        let mut places = [[0; TERMS]; 9];
        let mut i = 0;
        while i < 9 * TERMS {
            places[i / TERMS][i % TERMS] = place(i / TERMS, i % TERMS)[1] as u16;
            i += 1;
        }
        places
    };

    /// Channels of each tap that are in each vector.
    const FROM: [[u32; 9]; 9] = {
        let mut from = [[0; 9]; 9];
        let mut i = 0;
        while i < 9 * TERMS {
            from[i / TERMS][place(i / TERMS, i % TERMS)[0]] |= 1 << (i % TERMS);
            i += 1;
        }
        from
    };

    #[target_feature(enable = "avx512bw")]
    #[inline]
    pub(super) fn nine(from: &[[u16; TERMS]; 9]) -> [[u16; TERMS]; 9] {
        let vectors: [__m512i; 9] = bytemuck::cast(*from);
        let mut taps = [_mm512_setzero_si512(); 9];
        for (tap, to) in taps.iter_mut().enumerate() {
            let places = bytemuck::cast(PLACES[tap]);
            for (vector, mask) in vectors.iter().zip(FROM[tap]) {
                *to = _mm512_mask_permutexvar_epi16(*to, mask, places, *vector);
            }
        }
        bytemuck::cast(taps)
    }
}
