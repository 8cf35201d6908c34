//! Compiles a piece of code for the vector units this processor may have and picks one when it runs.

use crate::Stored;

/// A computation whose body is compiled once for each vector width.
///
/// Everything that `run` calls in its inner loops must be `#[inline(always)]`, else it is compiled without the wider
/// instructions.
pub(crate) trait Job {
    /// What it computes.
    type Out;
    /// The computation. `FMA` says whether fused multiply-adds are single instructions.
    fn run<const FMA: bool>(self) -> Self::Out;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, Job, LANES, STRIP, TILE};
    use std::arch::x86_64::*;

    /// The transposed tile.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn turn(tile: [[f32; TILE]; TILE]) -> [[f32; TILE]; TILE] {
        let [r0, r1, r2, r3, r4, r5, r6, r7]: [__m256; TILE] = bytemuck::cast(tile);
        let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        let (a4, a5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
        let (a6, a7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
        let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
        let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
        let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
        let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
        bytemuck::cast([
            _mm256_permute2f128_ps::<0x20>(b0, b4),
            _mm256_permute2f128_ps::<0x20>(b1, b5),
            _mm256_permute2f128_ps::<0x20>(b2, b6),
            _mm256_permute2f128_ps::<0x20>(b3, b7),
            _mm256_permute2f128_ps::<0x31>(b0, b4),
            _mm256_permute2f128_ps::<0x31>(b1, b5),
            _mm256_permute2f128_ps::<0x31>(b2, b6),
            _mm256_permute2f128_ps::<0x31>(b3, b7),
        ])
    }

    /// Turns whole blocks: `target[j * target_row + i] = source[i * source_row + j]` for `i < rows`, `j < cols`, multiples of
    /// [`BLOCK`].
    ///
    /// # Safety
    /// The rows of both matrices must lie in their memory, which must not overlap.
    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "blocks are moved through pointers")]
    pub(super) unsafe fn turn_blocks(
        (source, source_row): (*const f32, usize),
        (target, target_row): (*mut f32, usize),
        [rows, cols]: [usize; 2],
    ) {
        for strip in (0..cols).step_by(STRIP) {
            for i in (0..rows).step_by(BLOCK) {
                for j in (strip..cols.min(strip + STRIP)).step_by(BLOCK) {
                    let mut r = [_mm512_setzero_ps(); BLOCK];
                    let mut u = r;
                    for (a, r) in r.iter_mut().enumerate() {
                        // SAFETY: within the source by the caller's promise; a hint does not access memory.
                        unsafe {
                            let at = source.add((i + a) * source_row + j);
                            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(BLOCK * source_row).cast());
                            *r = _mm512_loadu_ps(at);
                        }
                    }
                    // Four rows of a column come together, then the fours.
                    for k in (0..BLOCK).step_by(4) {
                        let (a, b) = (_mm512_unpacklo_ps(r[k], r[k + 1]), _mm512_unpackhi_ps(r[k], r[k + 1]));
                        let (c, d) = (_mm512_unpacklo_ps(r[k + 2], r[k + 3]), _mm512_unpackhi_ps(r[k + 2], r[k + 3]));
                        u[k] = _mm512_shuffle_ps::<0x44>(a, c);
                        u[k + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                        u[k + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                        u[k + 3] = _mm512_shuffle_ps::<0xee>(b, d);
                    }
                    for c in 0..4 {
                        let x = _mm512_shuffle_f32x4::<0x88>(u[c], u[4 + c]);
                        let y = _mm512_shuffle_f32x4::<0xdd>(u[c], u[4 + c]);
                        let z = _mm512_shuffle_f32x4::<0x88>(u[8 + c], u[12 + c]);
                        let w = _mm512_shuffle_f32x4::<0xdd>(u[8 + c], u[12 + c]);
                        let lines = [
                            _mm512_shuffle_f32x4::<0x88>(x, z),
                            _mm512_shuffle_f32x4::<0x88>(y, w),
                            _mm512_shuffle_f32x4::<0xdd>(x, z),
                            _mm512_shuffle_f32x4::<0xdd>(y, w),
                        ];
                        for (four, line) in lines.into_iter().enumerate() {
                            // SAFETY: within the target by the caller's promise.
                            unsafe { _mm512_storeu_ps(target.add((j + 4 * four + c) * target_row + i), line) };
                        }
                    }
                }
            }
        }
    }

    /// The total of each accumulator, the additions in the order of [`super::total`].
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn totals(sums: [[f32; LANES]; TILE]) -> [f32; TILE] {
        let halves: [[__m256; 2]; TILE] = bytemuck::cast(sums);
        let h = halves.map(|[low, high]| _mm256_add_ps(low, high));
        // Four sums of accumulator k, then four of k + 4.
        let pair = |k: usize| {
            let low = _mm256_permute2f128_ps::<0x20>(h[k], h[k + 4]);
            _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(h[k], h[k + 4]))
        };
        // Two sums of each accumulator of both.
        let four =
            |a: __m256, b: __m256| _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
        let (low, high) = (four(pair(0), pair(1)), four(pair(2), pair(3)));
        bytemuck::cast(_mm256_add_ps(_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xdd>(low, high)))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn wide<J: Job>(job: J) -> J::Out {
        job.run::<true>()
    }

    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn middle<J: Job>(job: J) -> J::Out {
        job.run::<true>()
    }

    pub(super) fn has_wide() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512cd")
            && has_middle()
    }

    pub(super) fn has_middle() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }
}

/// Runs `job` on the widest vector unit there is.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls code compiled for features that were found")]
pub(crate) fn dispatch<J: Job>(job: J) -> J::Out {
    if x86::has_wide() {
        // SAFETY: the processor has every feature that `wide` enables.
        unsafe { x86::wide(job) }
    } else if x86::has_middle() {
        // SAFETY: the processor has every feature that `middle` enables.
        unsafe { x86::middle(job) }
    } else {
        job.run::<false>()
    }
}

/// Runs `job` on the widest vector unit there is.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn dispatch<J: Job>(job: J) -> J::Out {
    job.run::<{ cfg!(target_arch = "aarch64") }>()
}

/// Floats with the operations that vector loops need.
pub(crate) trait Real: crate::Float {
    /// `self * a + b`, fused if `FMA`.
    fn madd<const FMA: bool>(self, a: Self, b: Self) -> Self;
    /// The exponential, in a form that compilers can vectorise for `f32`: relative error below 2e-7, zero below -87.
    fn exp_lane<const FMA: bool>(self) -> Self;
    /// The transposed tile. `FMA` must be that of the [`Job`] that asks.
    #[inline(always)]
    fn turn<const FMA: bool>(tile: [[Self; TILE]; TILE]) -> [[Self; TILE]; TILE] {
        std::array::from_fn(|b| std::array::from_fn(|a| tile[a][b]))
    }
    /// Turns a matrix as [`Turn`] does, as many rows and columns of it as it has quick means for, and says how many.
    fn turn_blocks(
        _source: &[Self],
        _source_row: usize,
        _extents: [usize; 2],
        _target: &mut [Self],
        _target_row: usize,
    ) -> [usize; 2] {
        [0; 2]
    }
    /// The [`total`] of each accumulator. `FMA` must be that of the [`Job`] that asks.
    #[inline(always)]
    fn totals<const FMA: bool>(sums: [[Self; LANES]; TILE]) -> [Self; TILE] {
        sums.map(total)
    }
    /// Negative infinity.
    const LOWEST: Self;
}

/// The part of the exponential in `f32` that needs arithmetic.
pub(crate) trait ExpParts: Sized {
    /// `(p, n)` such that the exponential is `p * 2^n`, with `p` near one. The argument must be within -128..128 or NaN, which
    /// makes `p` NaN.
    fn exp_parts<const FMA: bool>(self) -> (Self, i32);
}

/// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Coefficients of `(exp(r) - 1 - r) / r^2`, the highest power first.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 5e-1];

impl ExpParts for f32 {
    #[inline(always)]
    fn exp_parts<const FMA: bool>(self) -> (f32, i32) {
        let ([p], [n]) = exp_parts::<FMA, 1>([self]);
        (p, n)
    }
}

/// [`ExpParts::exp_parts`] of several numbers. A step is taken for all of them before the next, because each waits for the one before.
#[inline(always)]
fn exp_parts<const FMA: bool, const N: usize>(x: [f32; N]) -> ([f32; N], [i32; N]) {
    let (mut shifted, mut r, mut p, mut n) = (x, x, x, [0; N]);
    for v in 0..N {
        shifted[v] = x[v].madd::<FMA>(std::f32::consts::LOG2_E, ROUND);
    }
    for v in 0..N {
        r[v] = (shifted[v] - ROUND).madd::<FMA>(-LN2_HIGH, x[v]);
    }
    for v in 0..N {
        r[v] = (shifted[v] - ROUND).madd::<FMA>(-LN2_LOW, r[v]);
        p[v] = EXP[0];
    }
    for factor in &EXP[1..] {
        for v in 0..N {
            p[v] = p[v].madd::<FMA>(r[v], *factor);
        }
    }
    for v in 0..N {
        p[v] = p[v].madd::<FMA>(r[v] * r[v], r[v] + 1.0);
        n[v] = (shifted[v].to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    }
    (p, n)
}

/// Exponentials of several numbers, as exact as [`Real::exp_lane`] in fewer steps: those of numbers above 88 are that of 88. NaN stays.
#[inline(always)]
pub(crate) fn exp_each<const FMA: bool, const N: usize>(x: [f32; N]) -> [f32; N] {
    let mut clamped = x;
    for x in &mut clamped {
        *x = if -87.0 > *x { -87.0 } else { *x };
        *x = if 88.0 < *x { 88.0 } else { *x };
    }
    let (mut p, n) = exp_parts::<FMA, N>(clamped);
    for v in 0..N {
        let power = f32::from_bits((n[v].wrapping_add(127) as u32) << 23);
        p[v] = if x[v] < -87.0 { 0.0 } else { p[v] * power };
    }
    p
}

impl Real for f32 {
    const LOWEST: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn madd<const FMA: bool>(self, a: f32, b: f32) -> f32 {
        if FMA { self.mul_add(a, b) } else { self * a + b }
    }

    #[inline(always)]
    fn exp_lane<const FMA: bool>(self) -> f32 {
        let clamped = if self < -87.0 { -87.0 } else { self };
        let clamped = if clamped > 88.0 { 88.0 } else { clamped };
        let (p, n) = clamped.exp_parts::<FMA>();
        let y = f32::from_bits(p.to_bits().wrapping_add((n as u32) << 23));
        let y = if self < -87.0 { 0.0 } else { y };
        let y = if self > 88.0 { f32::INFINITY } else { y };
        if self.is_nan() { self } else { y }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "calls code compiled for features that were found")]
    fn turn<const FMA: bool>(tile: [[f32; TILE]; TILE]) -> [[f32; TILE]; TILE] {
        if FMA {
            // SAFETY: on this architecture jobs run with `FMA` only where AVX2 was found.
            unsafe { x86::turn(tile) }
        } else {
            std::array::from_fn(|b| std::array::from_fn(|a| tile[a][b]))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "calls code compiled for features that were found")]
    fn turn_blocks(
        source: &[f32],
        source_row: usize,
        extents: [usize; 2],
        target: &mut [f32],
        target_row: usize,
    ) -> [usize; 2] {
        let [rows, cols] = extents.map(|extent| extent / BLOCK * BLOCK);
        if rows * cols == 0 || !is_x86_feature_detected!("avx512f") {
            return [0; 2];
        }
        assert!((rows - 1) * source_row + cols <= source.len(), "matrix exceeds its memory");
        assert!((cols - 1) * target_row + rows <= target.len(), "transpose exceeds its memory");
        let (source, target) = ((source.as_ptr(), source_row), (target.as_mut_ptr(), target_row));
        // SAFETY: the processor has the feature, and all that is moved lies in the two by the assertions.
        unsafe { x86::turn_blocks(source, target, [rows, cols]) };
        [rows, cols]
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "calls code compiled for features that were found")]
    fn totals<const FMA: bool>(sums: [[f32; LANES]; TILE]) -> [f32; TILE] {
        if FMA {
            // SAFETY: on this architecture jobs run with `FMA` only where AVX2 was found.
            unsafe { x86::totals(sums) }
        } else {
            sums.map(total)
        }
    }
}

impl Real for f64 {
    const LOWEST: f64 = f64::NEG_INFINITY;

    #[inline(always)]
    fn madd<const FMA: bool>(self, a: f64, b: f64) -> f64 {
        if FMA { self.mul_add(a, b) } else { self * a + b }
    }

    #[inline(always)]
    fn exp_lane<const FMA: bool>(self) -> f64 {
        self.exp()
    }
}

/// Lanes of the accumulators that vector loops keep: a whole cache line of `f32`, which every width divides.
pub(crate) const LANES: usize = 16;

/// `y += a * x`.
#[inline(always)]
pub(crate) fn axpy<T: Real, const FMA: bool>(a: T, x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.madd::<FMA>(x, *y);
    }
}

/// Sums the lanes of an accumulator in a fixed order.
#[inline(always)]
pub(crate) fn total<T: Real>(lanes: [T; LANES]) -> T {
    let mut l = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            l[i] += l[i + width];
        }
        width /= 2;
    }
    l[0]
}

/// The dot product of two slices of the same length.
#[inline(always)]
pub(crate) fn dot<T: Real, const FMA: bool>(a: &[T], b: &[T]) -> T {
    let (mut even, mut odd) = ([T::of(0.0); LANES], [T::of(0.0); LANES]);
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<{ 2 * LANES }>(), b.as_chunks::<{ 2 * LANES }>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            even[i] = a[i].madd::<FMA>(b[i], even[i]);
            odd[i] = a[LANES + i].madd::<FMA>(b[LANES + i], odd[i]);
        }
    }
    let mut rest = T::of(0.0);
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        rest = a.madd::<FMA>(b, rest);
    }
    for i in 0..LANES {
        even[i] += odd[i];
    }
    total(even) + rest
}

/// Side of the tiles that [`Turn`] moves.
pub(crate) const TILE: usize = 8;
/// Side of the larger blocks that it moves where there are quick means.
pub(crate) const BLOCK: usize = 16;
/// Columns that [`Turn`] moves together.
const STRIP: usize = 512;

/// A matrix to be turned and widened: `target[j * target_row + i] = source[i * source_row + j]` for `i < rows`, `j < cols`.
pub(crate) struct Turn<'a, T, S = T> {
    /// Where it is.
    pub(crate) source: &'a [S],
    /// Distance of its rows.
    pub(crate) source_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) cols: usize,
    /// Where its transpose goes.
    pub(crate) target: &'a mut [T],
    /// Distance of the rows of the transpose.
    pub(crate) target_row: usize,
}

impl<T: Real, S: Stored<T>> Job for Turn<'_, T, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Turn { source, source_row, rows, cols, target, target_row } = self;
        turn::<T, S, FMA>(source, source_row, [rows, cols], target, target_row);
    }
}

/// As [`Turn`], for a job.
#[inline(always)]
pub(crate) fn turn<T: Real, S: Stored<T>, const FMA: bool>(
    source: &[S],
    source_row: usize,
    [rows, cols]: [usize; 2],
    target: &mut [T],
    target_row: usize,
) {
    let [height, width] = match S::plain(source) {
        Some(source) => T::turn_blocks(source, source_row, [rows, cols], target, target_row),
        None => [0; 2],
    };
    if width < cols && height > 0 {
        let (source, target) = (&source[width..], &mut target[width * target_row..]);
        transpose::<T, S, FMA>(source, source_row, height, cols - width, target, target_row);
    }
    if height < rows {
        let (source, target) = (&source[height * source_row..], &mut target[height..]);
        transpose::<T, S, FMA>(source, source_row, rows - height, cols, target, target_row);
    }
}

/// Rows whose elements [`Turn`] asks for before it needs them.
const AHEAD: usize = TILE;

/// Brings element `at` nearer, if there is such an element.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "the hint takes a pointer")]
pub(crate) fn prefetch<T>(slice: &[T], at: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    if let Some(element) = slice.get(at) {
        // SAFETY: a hint does not access memory, and every processor of this architecture has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast()) };
    }
}

/// Would bring element `at` nearer.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn prefetch<T>(_slice: &[T], _at: usize) {}

#[inline(always)]
fn transpose<T: Real, S: Stored<T>, const FMA: bool>(
    source: &[S],
    source_row: usize,
    rows: usize,
    cols: usize,
    target: &mut [T],
    target_row: usize,
) {
    // A strip reads the source along its rows; the lines of the target that it writes stay in the nearest caches until
    // the following rows fill them.
    for strip in (0..cols).step_by(STRIP) {
        let columns = strip..cols.min(strip + STRIP);
        for i in (0..rows).step_by(TILE) {
            let height = TILE.min(rows - i);
            for j in columns.clone().step_by(TILE) {
                let width = TILE.min(columns.end - j);
                if width == TILE && height == TILE {
                    for a in 0..TILE {
                        prefetch(source, (i + AHEAD + a) * source_row + j);
                    }
                    let mut tile = [[T::of(0.0); TILE]; TILE];
                    for (a, row) in tile.iter_mut().enumerate() {
                        let source = &source[(i + a) * source_row + j..][..TILE];
                        row.iter_mut().zip(source).for_each(|(to, from)| *to = from.wide());
                    }
                    for (b, row) in T::turn::<FMA>(tile).iter().enumerate() {
                        target[(j + b) * target_row + i..][..TILE].copy_from_slice(row);
                    }
                } else {
                    for b in 0..width {
                        for a in 0..height {
                            target[(j + b) * target_row + i + a] = source[(i + a) * source_row + j + b].wide();
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a mut [f32]);
    impl Job for Exp<'_> {
        type Out = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            for x in self.0 {
                *x = x.exp_lane::<FMA>();
            }
        }
    }

    #[test]
    fn transposes() {
        for (rows, cols) in [(1, 1), (8, 8), (9, 17), (16, 3), (31, 24), (0, 4), (16, 16), (33, 530), (48, 1030)] {
            let (from, to) = (cols + 2, rows + 3);
            let source: Vec<f32> = (0..rows.max(1) * from).map(|i| i as f32).collect();
            let mut target = vec![-1.0; cols * to];
            let (source, target) = (&source, &mut target);
            dispatch(Turn { source, source_row: from, rows, cols, target, target_row: to });
            for j in 0..cols {
                for i in 0..to {
                    let want = if i < rows { source[i * from + j] } else { -1.0 };
                    assert_eq!(target[j * to + i], want);
                }
            }
        }
    }

    struct Totals([[f32; LANES]; TILE]);
    impl Job for Totals {
        type Out = [f32; TILE];
        #[inline(always)]
        fn run<const FMA: bool>(self) -> [f32; TILE] {
            f32::totals::<FMA>(self.0)
        }
    }

    #[test]
    fn totals_are_added_in_one_order() {
        let sums = std::array::from_fn(|k| std::array::from_fn(|l| ((k * 37 + l * 11) % 23) as f32 / 7.0 - 1.0));
        assert_eq!(dispatch(Totals(sums)).map(f32::to_bits), sums.map(|lanes| total(lanes).to_bits()));
    }

    struct Each<'a>(&'a mut [f32]);
    impl Job for Each<'_> {
        type Out = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            for four in self.0.as_chunks_mut::<4>().0 {
                *four = exp_each::<FMA, 4>(*four);
            }
        }
    }

    #[test]
    fn exponentials_of_several_numbers_are_those_of_each() {
        let mut xs: Vec<f32> = (-880..=880).map(|i| i as f32 * 0.1).collect();
        xs.extend([-0.0, 1e-30, f32::NEG_INFINITY, -1e30, f32::NAN, 1e30, f32::INFINITY]);
        let (mut wide, mut narrow) = (xs.clone(), xs.clone());
        dispatch(Each(&mut wide));
        Each(&mut narrow).run::<false>();
        for (i, &x) in xs.iter().enumerate() {
            let want = if x < -87.0 { 0.0 } else { f64::from(x.min(88.0)).exp() };
            for got in [wide[i], narrow[i]] {
                let near = (f64::from(got) - want).abs() <= 3e-7 * want;
                assert!(near || x.is_nan() && got.is_nan(), "exp({x}) = {got}, not {want}");
            }
        }
    }

    #[test]
    fn exponential_is_accurate() {
        let xs: Vec<f32> = (-8700..8800).map(|i| i as f32 * 0.01).collect();
        let mut wide = xs.clone();
        dispatch(Exp(&mut wide));
        let mut narrow = xs.clone();
        Exp(&mut narrow).run::<false>();
        for (i, &x) in xs.iter().enumerate() {
            let want = f64::from(x).exp();
            for got in [wide[i], narrow[i]] {
                assert!((f64::from(got) - want).abs() <= 3e-7 * want, "exp({x}) = {got}, not {want}");
            }
        }
        let mut ends = [f32::NEG_INFINITY, -1e30, 0.0, f32::INFINITY, f32::NAN];
        dispatch(Exp(&mut ends));
        assert_eq!(&ends[..4], &[0.0, 0.0, 1.0, f32::INFINITY]);
        assert!(ends[4].is_nan());
    }
}
