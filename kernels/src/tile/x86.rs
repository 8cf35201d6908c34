//! The block with the vector instructions of x86 processors.

use super::{PANEL, Part};
use crate::simd::prefetch_at;
use std::arch::x86_64::*;

/// Functions that compute `R` rows and `V` vectors of a block with vectors of so many bits.
macro_rules! block {
    ($name:ident, $features:literal, 512, $fma:ident) => {
        block! {
            $name, $features, 16, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, $fma, _mm512_add_ps, _mm512_storeu_ps
        }
    };
    ($name:ident, $features:literal, 256, $fma:ident) => {
        block! {
            $name, $features, 8, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, $fma, _mm256_add_ps, _mm256_storeu_ps
        }
    };
    ($name:ident, $features:literal, $lanes:literal, $zero:ident, $splat:ident, $load:ident, $fma:ident, $plus:ident, $store:ident) => {
        /// # Safety
        /// The processor must have the features, and `R` rows and `V` vectors of the part lie in its operands.
        #[target_feature(enable = $features)]
        #[expect(unsafe_code, reason = "the block is computed through pointers")]
        unsafe fn $name<const R: usize, const V: usize>(p: Part) {
            let Part { k, a, rs, cs, b, width, c, pitch, add, .. } = p;
            let mut sums = [[$zero(); V]; R];
            let mut vectors = [$zero(); V];
            for r in 0..R {
                // Where sums go may be far away, and is there when they are ready.
                (0..V).for_each(|v| prefetch_at(c.wrapping_add(r * pitch + v * $lanes)));
            }
            for term in 0..k {
                // SAFETY: within the operands by the caller's promise.
                unsafe {
                    for (v, vector) in vectors.iter_mut().enumerate() {
                        *vector = $load(b.add(term * width + v * $lanes));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = $splat(*a.add(r * rs + term * cs));
                        for (sum, vector) in sums.iter_mut().zip(&vectors) {
                            *sum = $fma(x, *vector, *sum);
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let at = c.add(r * pitch + v * $lanes);
                        $store(at, if add { $plus($load(at), *sum) } else { *sum });
                    }
                }
            }
        }
    };
}

block!(wide, "avx512f", 512, _mm512_fmadd_ps);
block!(pairs, "avx512f,avx512bf16", 512, dot);
block!(narrow_pairs, "avx512f,avx512vl,avx512bf16", 256, narrow_dot);
block!(wide_pairs, "avx512f", 512, wide_dot);
block!(middle, "avx2,fma", 256, _mm256_fmadd_ps);
block!(middle_pairs, "avx2,fma", 256, middle_dot);

/// `x0 * y0 + x1 * y1 + sum` of the pairs in each lane.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn dot(x: __m512, y: __m512, sum: __m512) -> __m512 {
    _mm512_dpbf16_ps(sum, as_pairs(x), as_pairs(y))
}

/// As [`dot`], of half as many lanes.
#[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
#[inline]
#[expect(unsafe_code, reason = "reinterprets vectors")]
fn narrow_dot(x: __m256, y: __m256, sum: __m256) -> __m256 {
    // SAFETY: both types are 32 bytes without invalid values.
    unsafe {
        _mm256_dpbf16_ps(sum, std::mem::transmute::<__m256, __m256bh>(x), std::mem::transmute::<__m256, __m256bh>(y))
    }
}

/// As [`dot`], by products in single precision.
#[target_feature(enable = "avx512f")]
#[inline]
fn wide_dot(x: __m512, y: __m512, sum: __m512) -> __m512 {
    let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let x1 = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), high));
    let y1 = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(y), high));
    let x0 = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(x)));
    let y0 = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(y)));
    _mm512_fmadd_ps(x0, y0, _mm512_fmadd_ps(x1, y1, sum))
}

/// As [`dot`], by products in single precision.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn middle_dot(x: __m256, y: __m256, sum: __m256) -> __m256 {
    let high = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
    let (x1, y1) = (_mm256_and_ps(x, high), _mm256_and_ps(y, high));
    let x0 = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(x)));
    let y0 = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(y)));
    _mm256_fmadd_ps(x0, y0, _mm256_fmadd_ps(x1, y1, sum))
}

/// The same bits as pairs.
#[inline(always)]
#[expect(unsafe_code, reason = "reinterprets a vector")]
fn as_pairs(x: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute::<__m512, __m512bh>(x) }
}

/// Functions that compute a part with the blocks of 16 lanes that `block!` made, or one of 8 for a quarter of a panel.
macro_rules! parts {
    ($name:ident, $block:ident, $quarter:ident, $needs:literal) => {
        /// # Safety
        #[doc = concat!("As for [`Part::run`], ", $needs)]
        #[expect(unsafe_code, reason = "the block is computed through pointers")]
        pub(super) unsafe fn $name(part: Part, rows: usize) {
            let mut row = 0;
            while row < rows {
                // SAFETY: the rows lie in the operands, and the processor has the features, by the caller's promise.
                unsafe {
                    let part = part.row(row);
                    row += match (rows - row, PANEL / part.width) {
                        (16.., 2) => run::<16>(|| $block::<16, 1>(part)),
                        (8.., 2) => run::<8>(|| $block::<8, 1>(part)),
                        (8.., 1) => run::<8>(|| $block::<8, 2>(part)),
                        (_, 2) => run::<1>(|| $block::<1, 1>(part)),
                        (_, 1) => run::<1>(|| $block::<1, 2>(part)),
                        (16.., _) => run::<16>(|| $quarter::<16, 1>(part)),
                        (4.., _) => run::<4>(|| $quarter::<4, 1>(part)),
                        _ => run::<1>(|| $quarter::<1, 1>(part)),
                    };
                }
            }
        }
    };
}

parts!(run_wide, wide, middle, "on a processor with AVX-512 and fused multiply-adds.");
parts!(
    run_pairs,
    pairs,
    narrow_pairs,
    "of pairs, on a processor with AVX-512 and its bfloat16 instructions for all lengths."
);
parts!(run_wide_pairs, wide_pairs, middle_pairs, "of pairs, on a processor with AVX-512 and fused multiply-adds.");

/// # Safety
/// As for [`Part::run`] with the same `PAIRS`, on a processor with AVX2 and fused multiply-adds.
#[expect(unsafe_code, reason = "the block is computed through pointers")]
pub(super) unsafe fn run_middle<const PAIRS: bool>(part: Part, rows: usize) {
    for column in (0..part.width).step_by(16) {
        let vectors = part.width.min(16) / 8;
        let mut row = 0;
        while row < rows {
            // SAFETY: as for `run_wide`.
            unsafe {
                let part = part.row(row).column(column);
                row += match (rows - row, vectors) {
                    (4.., 2) => run::<4>(|| either::<PAIRS, 4, 2>(part)),
                    (_, 2) => run::<1>(|| either::<PAIRS, 1, 2>(part)),
                    (8.., _) => run::<8>(|| either::<PAIRS, 8, 1>(part)),
                    _ => run::<1>(|| either::<PAIRS, 1, 1>(part)),
                };
            }
        }
    }
}

/// # Safety
/// As for `middle` and `middle_pairs`.
#[inline(always)]
#[expect(unsafe_code, reason = "the block is computed through pointers")]
unsafe fn either<const PAIRS: bool, const R: usize, const V: usize>(part: Part) {
    // SAFETY: by the caller's promise.
    unsafe { if PAIRS { middle_pairs::<R, V>(part) } else { middle::<R, V>(part) } }
}

/// Calls and says how many rows are done.
#[inline(always)]
fn run<const R: usize>(block: impl FnOnce()) -> usize {
    block();
    R
}
