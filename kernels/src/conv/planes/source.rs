//! The source, rounded, in padded planes of pairs of channels.

use super::Planes;
use crate::simd::Job;
use crate::tile::pair;
use crate::{Shared, Stored};
use std::ops::Range;

/// Rounds some pairs of channels to their planes in `work`, for some padded rows of the images.
pub(super) struct PackSource<'a, S> {
    pub(super) p: &'a Planes,
    pub(super) source: &'a [S],
    pub(super) pairs: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) work: &'a Shared<'a, f32>,
}

impl<S: Stored<f32>> Job for PackSource<'_, S> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint planes")]
    fn run<const FMA: bool>(self) {
        let PackSource { p, source, pairs, rows, work } = self;
        let ([height, width], line, [down, across]) = (&p.axes, p.line(), p.remainders());
        for (pair_of, remainder) in pairs.flat_map(|pair| (0..down * across).map(move |remainder| (pair, remainder))) {
            // SAFETY: each plane belongs to one task.
            let plane = unsafe { work.range(pair_of * p.pitch() + remainder * p.plane(), rows.len() * line) };
            // Source elements of the plane's first row and point.
            let top = height.origin() + (remainder / across) as isize;
            let left = width.origin() + (remainder % across) as isize;
            // Points before the source's first element, and before what is beyond its last.
            let bound = |least: isize| (least.max(0) as usize).div_ceil(width.step()).min(line);
            let (low, high) = (bound(-left), bound(width.size as isize - left));
            for (row, to) in rows.clone().zip(plane.chunks_exact_mut(line)) {
                let (image, y) = (row / p.rows(), (row % p.rows() * height.step()) as isize + top);
                let channel = 2 * pair_of;
                if y < 0 || y >= height.size as isize || channel >= p.sources || low >= high {
                    to.fill(0.0);
                    continue;
                }
                let first = (low * width.step()) as isize + left;
                let of = |channel: usize| {
                    let row = ((image * p.sources + channel) * height.size + y as usize) * width.size;
                    &source[row..][first as usize..width.size]
                };
                to[..low].fill(0.0);
                to[high..].fill(0.0);
                let to = &mut to[low..high];
                let (first, second) = (of(channel), if channel + 1 < p.sources { of(channel + 1) } else { &[] });
                match (width.step(), second) {
                    (1, []) => to.iter_mut().zip(first).for_each(|(to, first)| *to = pair(*first, S::zeroed())),
                    (1, second) => {
                        for (to, (first, second)) in to.iter_mut().zip(first.iter().zip(second)) {
                            *to = pair(*first, *second);
                        }
                    }
                    (step, second) => {
                        for (i, to) in to.iter_mut().enumerate() {
                            *to = pair(first[i * step], second.get(i * step).copied().unwrap_or(S::zeroed()));
                        }
                    }
                }
            }
        }
    }
}
