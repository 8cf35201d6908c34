//! The source, rounded, in padded planes of pairs of channels.

use super::Planes;
use crate::Shared;
use crate::simd::Job;
use crate::tile::pair;
use std::ops::Range;

/// Rounds some pairs of channels to their planes in `work`, for some padded rows of the images.
pub(super) struct PackSource<'a> {
    pub(super) p: &'a Planes,
    pub(super) source: &'a [f32],
    pub(super) pairs: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) work: &'a Shared<'a, f32>,
}

impl Job for PackSource<'_> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint planes")]
    fn run<const FMA: bool>(self) {
        let PackSource { p, source, pairs, rows, work } = self;
        let ([height, width], line) = (p.source, p.line());
        let left = p.pads[1].min(line);
        let inner = width.min(line - left);
        for pair_of in pairs {
            // SAFETY: each plane belongs to one task.
            let plane = unsafe { work.range(pair_of * p.plane(), rows.len() * line) };
            for (row, to) in rows.clone().zip(plane.chunks_exact_mut(line)) {
                let (image, y) = (row / p.rows(), (row % p.rows()).wrapping_sub(p.pads[0]));
                let channel = 2 * pair_of;
                if y >= height || channel >= p.sources {
                    to.fill(0.0);
                    continue;
                }
                let of = |channel: usize| &source[((image * p.sources + channel) * height + y) * width..][..inner];
                to[..left].fill(0.0);
                to[left + inner..].fill(0.0);
                let to = &mut to[left..][..inner];
                if channel + 1 < p.sources {
                    let (first, second) = (of(channel), of(channel + 1));
                    for (to, (first, second)) in to.iter_mut().zip(first.iter().zip(second)) {
                        *to = pair(*first, *second);
                    }
                } else {
                    to.iter_mut().zip(of(channel)).for_each(|(to, first)| *to = pair(*first, 0.0));
                }
            }
        }
    }
}
