//! Compiles a piece of code for the vector units this processor may have and picks one when it runs.

mod copy;
mod exp;
mod turn;

pub(crate) use copy::copy;
pub(crate) use exp::{ExpParts, exp_each, exp_to_round};
#[cfg(target_arch = "x86_64")]
pub(crate) use turn::prefetch_far;
pub(crate) use turn::{BLOCK, Turn, Turned, prefetch, prefetch_at, turn, turn_shared, turn_stored};

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
    use super::{Job, LANES, TILE};
    use std::arch::x86_64::*;

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

impl Real for f32 {
    const LOWEST: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn madd<const FMA: bool>(self, a: f32, b: f32) -> f32 {
        if FMA { self.mul_add(a, b) } else { self * a + b }
    }

    #[inline(always)]
    fn exp_lane<const FMA: bool>(self) -> f32 {
        exp::exp::<FMA>(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn turn<const FMA: bool>(tile: [[f32; TILE]; TILE]) -> [[f32; TILE]; TILE] {
        turn::tile::<FMA>(tile)
    }

    #[cfg(target_arch = "x86_64")]
    fn turn_blocks(
        source: &[f32],
        source_row: usize,
        extents: [usize; 2],
        target: &mut [f32],
        target_row: usize,
    ) -> [usize; 2] {
        turn::blocks(source, source_row, extents, target, target_row)
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
