//! The transforms of Winograd's convolutions along one line, of 16 neighbours at once. `M` is the side of a tile of the result; the
//! matrices are those of F(4x4, 3x3) and F(2x2, 3x3) in Lavin and Gray, arXiv 1509.09308.

use crate::Stored;
use crate::simd::{LANES, Real};

/// A number of each of 16 neighbours.
pub(super) type Lane = [f32; LANES];

/// `a * x + y`, lane by lane.
#[inline(always)]
pub(super) fn axpy<const FMA: bool>(a: f32, x: &Lane, y: &Lane) -> Lane {
    let mut out = [0.0; LANES];
    for l in 0..LANES {
        out[l] = if FMA { a.mul_add(x[l], y[l]) } else { a * x[l] + y[l] };
    }
    out
}

/// `B^T d`, of which the first `M + 2` elements count.
#[inline(always)]
pub(super) fn input_line<const FMA: bool, const M: usize>(d: [Lane; 6]) -> [Lane; 6] {
    let [d0, d1, d2, d3, d4, d5] = d;
    if M == 2 {
        let (from, to) = (axpy::<FMA>(-1.0, &d2, &d0), axpy::<FMA>(-1.0, &d3, &d1));
        return [from, axpy::<FMA>(1.0, &d1, &d2), axpy::<FMA>(-1.0, &d1, &d2), to, d4, d5];
    }
    let even = axpy::<FMA>(-4.0, &d2, &d4);
    let odd = axpy::<FMA>(-4.0, &d1, &d3);
    let near = axpy::<FMA>(-1.0, &d2, &d4);
    let far = axpy::<FMA>(-1.0, &d1, &d3);
    [
        axpy::<FMA>(4.0, &d0, &axpy::<FMA>(-5.0, &d2, &d4)),
        axpy::<FMA>(1.0, &odd, &even),
        axpy::<FMA>(-1.0, &odd, &even),
        axpy::<FMA>(2.0, &far, &near),
        axpy::<FMA>(-2.0, &far, &near),
        axpy::<FMA>(4.0, &d1, &axpy::<FMA>(-5.0, &d3, &d5)),
    ]
}

/// `G g`, of which the first `M + 2` elements count.
#[inline(always)]
pub(super) fn filter_line<const FMA: bool, const M: usize>(g: [Lane; 3]) -> [Lane; 6] {
    let zero = [0.0; LANES];
    if M == 2 {
        let ends = axpy::<FMA>(0.5, &g[0], &axpy::<FMA>(0.5, &g[2], &zero));
        return [g[0], axpy::<FMA>(0.5, &g[1], &ends), axpy::<FMA>(-0.5, &g[1], &ends), g[2], zero, zero];
    }
    let scaled = |by: f32, x: &Lane| axpy::<FMA>(by, x, &zero);
    let ends = scaled(-1.0 / 6.0, &axpy::<FMA>(1.0, &g[0], &g[2]));
    let outer = axpy::<FMA>(1.0 / 24.0, &g[0], &scaled(1.0 / 6.0, &g[2]));
    [
        scaled(0.25, &g[0]),
        axpy::<FMA>(-1.0 / 6.0, &g[1], &ends),
        axpy::<FMA>(1.0 / 6.0, &g[1], &ends),
        axpy::<FMA>(1.0 / 12.0, &g[1], &outer),
        axpy::<FMA>(-1.0 / 12.0, &g[1], &outer),
        g[2],
    ]
}

/// `A^T m`, of which the first `M` elements count.
#[inline(always)]
pub(super) fn output_line<const FMA: bool, const M: usize>(m: [Lane; 6]) -> [Lane; 4] {
    let near = axpy::<FMA>(1.0, &m[1], &m[2]);
    if M == 2 {
        let odd = axpy::<FMA>(-1.0, &m[2], &m[1]);
        return [axpy::<FMA>(1.0, &m[0], &near), axpy::<FMA>(-1.0, &m[3], &odd), m[4], m[5]];
    }
    let far = axpy::<FMA>(1.0, &m[3], &m[4]);
    let near_odd = axpy::<FMA>(-1.0, &m[2], &m[1]);
    let far_odd = axpy::<FMA>(-1.0, &m[4], &m[3]);
    [
        axpy::<FMA>(1.0, &m[0], &axpy::<FMA>(1.0, &near, &far)),
        axpy::<FMA>(2.0, &far_odd, &near_odd),
        axpy::<FMA>(4.0, &far, &near),
        axpy::<FMA>(1.0, &m[5], &axpy::<FMA>(8.0, &far_odd, &near_odd)),
    ]
}

/// The taps of 16 neighbouring channels, tap by tap.
#[inline(always)]
pub(super) fn taps<W: Stored<f32>, const FMA: bool>(weights: &[W]) -> [Lane; 9] {
    let mut halves = [[[0.0; 8]; 8]; 2];
    for (half, turned) in halves.iter_mut().enumerate() {
        let mut tile = [[0.0; 8]; 8];
        for (l, tile) in tile.iter_mut().enumerate() {
            for (tap, stored) in tile.iter_mut().zip(&weights[9 * (8 * half + l)..][..8]) {
                *tap = stored.wide();
            }
        }
        *turned = f32::turn::<FMA>(tile);
    }
    let mut g = [[0.0; LANES]; 9];
    for tap in 0..8 {
        g[tap] = bytemuck::cast([halves[0][tap], halves[1][tap]]);
    }
    for l in 0..LANES {
        g[8][l] = weights[9 * l + 8].wide();
    }
    g
}
