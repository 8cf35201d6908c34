//! The transform of the source: `B^T d B` of what each tile reads.

use super::lines::{Lane, input_line};
use super::{POINTS, WIDEST, Winograd, channel, pairs};
use crate::simd::{Job, LANES};
use crate::tile::pair;
use crate::{Shared, Stored, scratch};
use std::ops::Range;

/// Transforms the source of some channels, for a band of tiles.
pub(super) struct TransformInput<'a, S, const M: usize, const U: usize> {
    pub(super) w: &'a Winograd,
    pub(super) source: &'a [S],
    pub(super) units: Range<usize>,
    pub(super) tiles: Range<usize>,
    pub(super) panel: usize,
    pub(super) work: &'a Shared<'a, f32>,
    pub(super) bytes: &'a mut [u8],
}

/// Elements of a row of the source with its padding, at most.
const STRIP: usize = WIDEST + 2 * LANES;

impl<S: Stored<f32>, const M: usize, const U: usize> Job for TransformInput<'_, S, M, U> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint channels")]
    fn run<const FMA: bool>(self) {
        let TransformInput { w, source, units, tiles, panel, work, bytes } = self;
        let (across, image_tiles) = w.grid();
        let strips = scratch::<f32>(bytes, U * 6 * STRIP);
        let n = M + 2;
        for unit in units {
            let mut held = usize::MAX;
            // What is left in lanes beyond the last tile counts for nothing.
            let mut lanes = [[[0.0; LANES]; POINTS]; U];
            for group in (0..tiles.len()).step_by(LANES) {
                let mut lane = 0;
                let end = tiles.end.min(tiles.start + group + LANES);
                let mut tile = tiles.start + group;
                while tile < end {
                    let (image, inside) = (tile / image_tiles, tile % image_tiles);
                    let (down, from) = (inside / across, inside % across);
                    let count = (across - from).min(end - tile);
                    if held != tile - from {
                        held = tile - from;
                        for (u, strips) in strips.chunks_exact_mut(6 * STRIP).enumerate() {
                            w.strips::<S, FMA, M>(
                                source,
                                image * w.sources + channel::<U>(unit) + u * LANES,
                                down,
                                strips,
                            );
                        }
                    }
                    for (strips, lanes) in strips.chunks_exact(6 * STRIP).zip(&mut lanes) {
                        for i in 0..n {
                            let row = &strips[i * STRIP + M * from..];
                            let lanes = &mut lanes[n * i..n * i + n];
                            match count {
                                LANES => part::<LANES, M>(row, lanes, lane),
                                8 => part::<8, M>(row, lanes, lane),
                                4 => part::<4, M>(row, lanes, lane),
                                _ => (0..count).for_each(|t| part::<1, M>(&row[M * t..], lanes, lane + t)),
                            }
                        }
                    }
                    lane += count;
                    tile += count;
                }
                let start = group / panel * n * n * w.pitch(panel) + unit * panel + group % panel;
                for i in 0..n {
                    let a = input_line::<FMA, M>(line(&lanes[0][n * i..][..n]));
                    let b = if U == 1 { a } else { input_line::<FMA, M>(line(&lanes[U - 1][n * i..][..n])) };
                    for j in 0..n {
                        let at = start + (n * i + j) * w.pitch(panel);
                        // SAFETY: each channel belongs to one task.
                        let out = unsafe { work.range(at, LANES) };
                        out.copy_from_slice(&if U == 1 { a[j] } else { pairs(&a[j], &b[j], pair) });
                    }
                }
            }
        }
    }
}

impl Winograd {
    /// Transforms the columns of the tiles in one row of them: the source rows that it reads, with their padding, become as many
    /// strips.
    #[inline(always)]
    fn strips<S: Stored<f32>, const FMA: bool, const M: usize>(
        &self,
        source: &[S],
        plane: usize,
        down: usize,
        strips: &mut [f32],
    ) {
        let [height, width] = self.source;
        let source = &source[plane * height * width..][..height * width];
        let (n, reach) = (M + 2, M * self.grid().0 + 2);
        let (left, inner) = (self.pads[1], width.min(reach - self.pads[1]));
        let used = reach.next_multiple_of(LANES);
        for (i, row) in strips.chunks_exact_mut(STRIP).enumerate().take(n) {
            let row = &mut row[..used];
            row.fill(0.0);
            let at = (M * down + i).wrapping_sub(self.pads[0]);
            if at < height {
                row[left..][..inner].iter_mut().zip(&source[at * width..]).for_each(|(to, from)| *to = from.wide());
            }
        }
        for at in (0..used).step_by(LANES) {
            let mut d = [[0.0; LANES]; 6];
            for (i, d) in d.iter_mut().enumerate().take(n) {
                d.copy_from_slice(&strips[i * STRIP + at..][..LANES]);
            }
            for (i, t) in input_line::<FMA, M>(d).iter().enumerate().take(n) {
                strips[i * STRIP + at..][..LANES].copy_from_slice(t);
            }
        }
    }
}

/// What a tile has along one line.
#[inline(always)]
fn line(elements: &[Lane]) -> [Lane; 6] {
    let mut line = [[0.0; LANES]; 6];
    line[..elements.len()].copy_from_slice(elements);
    line
}

/// Takes the elements that each of `N` neighbouring tiles reads of a row.
#[inline(always)]
fn part<const N: usize, const M: usize>(row: &[f32], lanes: &mut [Lane], lane: usize) {
    let row = &row[..M * N + 2];
    for (j, lanes) in lanes.iter_mut().enumerate().take(M + 2) {
        let lanes = &mut lanes[lane..][..N];
        for t in 0..N {
            lanes[t] = row[M * t + j];
        }
    }
}
