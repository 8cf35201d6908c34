//! The transform back: `A^T m A` of the products of each tile.

use super::lines::{axpy, output_line};
use super::{Winograd, sums};
use crate::Shared;
use crate::simd::{Job, LANES};
use std::ops::Range;

/// Transforms the products back and writes the tiles.
pub(super) struct TransformOutput<'a, const M: usize> {
    pub(super) w: &'a Winograd,
    pub(super) products: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) rows: Range<usize>,
    pub(super) tiles: Range<usize>,
    pub(super) panel: usize,
    pub(super) result: &'a Shared<'a, f32>,
}

impl<const M: usize> Job for TransformOutput<'_, M> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint channels")]
    fn run<const FMA: bool>(self) {
        let TransformOutput { w, products, bias, rows, tiles, panel, result } = self;
        let (across, image_tiles) = w.grid();
        let [height, width] = w.result;
        let (n, sums) = (M + 2, sums(panel));
        for (r, channel) in rows.enumerate() {
            let bias = [bias.map_or(0.0, |b| b[channel]); LANES];
            for group in (0..tiles.len()).step_by(LANES) {
                let start = group / panel * n * n * sums + r * panel + group % panel;
                let product = |point: usize| {
                    let mut lanes = [0.0; LANES];
                    lanes.copy_from_slice(&products[start + point * sums..][..LANES]);
                    lanes
                };
                let mut half = [[[0.0; LANES]; 4]; 6];
                for (j, half) in half.iter_mut().enumerate().take(n) {
                    let column = |i| if i < n { product(n * i + j) } else { [0.0; LANES] };
                    *half = output_line::<FMA, M>(std::array::from_fn(column));
                }
                // Rows of the 16 tiles side by side.
                let mut points = [[[0.0; M]; LANES]; 4];
                for (i, points) in points.iter_mut().enumerate().take(M) {
                    let line = output_line::<FMA, M>(std::array::from_fn(|j| half[j][i]));
                    let line = line.map(|lanes| axpy::<FMA>(1.0, &lanes, &bias));
                    for (l, point) in points.iter_mut().enumerate() {
                        *point = std::array::from_fn(|c| line[c][l]);
                    }
                }
                let end = tiles.end.min(tiles.start + group + LANES);
                let mut tile = tiles.start + group;
                let mut lane = 0;
                while tile < end {
                    let (image, inside) = (tile / image_tiles, tile % image_tiles);
                    let (down, from) = (inside / across, inside % across);
                    let count = (across - from).min(end - tile);
                    let plane = (image * w.results + channel) * height * width;
                    let len = (M * count).min(width - M * from);
                    for (i, points) in points.iter().enumerate().take(M.min(height - M * down)) {
                        // SAFETY: each channel belongs to one task.
                        let out = unsafe { result.range(plane + (M * down + i) * width + M * from, len) };
                        out.copy_from_slice(&points[lane..lane + count].as_flattened()[..len]);
                    }
                    lane += count;
                    tile += count;
                }
            }
        }
    }
}
