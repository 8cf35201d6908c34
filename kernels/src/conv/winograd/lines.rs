//! The transforms of Winograd's convolutions along one line, of 16 neighbours at once: F(2, 3) and F(4, 3) of Lavin and Gray, arXiv
//! 1509.09308. `M` is the side of a tile of the result.
//!
//! Those of F(4, 3) interpolate at 0, infinity and, instead of the usual ±1 and ±2, at ±2/3 and ±3/2: the elements that they make are
//! closer in size, and the error of a convolution is less than half as large.

use crate::Stored;
use crate::simd::{LANES, Real};

/// Points of F(4, 3) beside 0 and infinity, with either sign, and their squares.
const NEAR: f32 = 2.0 / 3.0;
const FAR: f32 = 1.5;
const NEAR_2: f32 = NEAR * NEAR;
const FAR_2: f32 = FAR * FAR;

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
    let ends = |d: [&Lane; 3]| axpy::<FMA>(NEAR_2 * FAR_2, d[0], &axpy::<FMA>(-(NEAR_2 + FAR_2), d[1], d[2]));
    let near = axpy::<FMA>(-FAR_2, &d2, &d4);
    let far = axpy::<FMA>(-NEAR_2, &d2, &d4);
    let near_odd = axpy::<FMA>(-FAR_2, &d1, &d3);
    let far_odd = axpy::<FMA>(-NEAR_2, &d1, &d3);
    [
        ends([&d0, &d2, &d4]),
        axpy::<FMA>(NEAR, &near_odd, &near),
        axpy::<FMA>(-NEAR, &near_odd, &near),
        axpy::<FMA>(FAR, &far_odd, &far),
        axpy::<FMA>(-FAR, &far_odd, &far),
        ends([&d1, &d3, &d5]),
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
    // What a point's value is divided by: its distance from each other point, multiplied.
    const BY: [f32; 3] = [1.0 / (NEAR_2 * FAR_2), 0.5 / (NEAR_2 * (NEAR_2 - FAR_2)), 0.5 / (FAR_2 * (FAR_2 - NEAR_2))];
    let scaled = |by: f32, x: &Lane| axpy::<FMA>(by, x, &zero);
    let near = axpy::<FMA>(BY[1], &g[0], &scaled(BY[1] * NEAR_2, &g[2]));
    let far = axpy::<FMA>(BY[2], &g[0], &scaled(BY[2] * FAR_2, &g[2]));
    [
        scaled(BY[0], &g[0]),
        axpy::<FMA>(BY[1] * NEAR, &g[1], &near),
        axpy::<FMA>(-BY[1] * NEAR, &g[1], &near),
        axpy::<FMA>(BY[2] * FAR, &g[1], &far),
        axpy::<FMA>(-BY[2] * FAR, &g[1], &far),
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
    let sum =
        |by: [f32; 2], near: &Lane, far: &Lane, last: &Lane| axpy::<FMA>(by[1], far, &axpy::<FMA>(by[0], near, last));
    let zero = [0.0; LANES];
    [
        sum([1.0, 1.0], &near, &far, &m[0]),
        sum([NEAR, FAR], &near_odd, &far_odd, &zero),
        sum([NEAR_2, FAR_2], &near, &far, &zero),
        sum([NEAR_2 * NEAR, FAR_2 * FAR], &near_odd, &far_odd, &m[5]),
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
