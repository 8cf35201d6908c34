//! Blocks and tiles by instructions of this architecture.

use super::{BLOCK, HALVES, STRIP, TILE};
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
                for (a, r) in r.iter_mut().enumerate() {
                    // SAFETY: within the source by the caller's promise; a hint does not access memory.
                    unsafe {
                        let at = source.add((i + a) * source_row + j);
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(BLOCK * source_row).cast());
                        *r = _mm512_loadu_ps(at);
                    }
                }
                lines(r, |line, elements| {
                    // SAFETY: within the target by the caller's promise.
                    unsafe { _mm512_storeu_ps(target.add((j + line) * target_row + i), elements) }
                });
            }
        }
    }
}

/// Gives the columns of a block of 32-bit elements, whose rows these are.
#[target_feature(enable = "avx512f")]
#[inline]
fn lines(r: [__m512; BLOCK], mut put: impl FnMut(usize, __m512)) {
    let mut u = r;
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
        put(c, _mm512_shuffle_f32x4::<0x88>(x, z));
        put(4 + c, _mm512_shuffle_f32x4::<0x88>(y, w));
        put(8 + c, _mm512_shuffle_f32x4::<0xdd>(x, z));
        put(12 + c, _mm512_shuffle_f32x4::<0xdd>(y, w));
    }
}

/// As [`turn_blocks`] for elements of 16 bits, in blocks of [`HALVES`] rows and columns.
///
/// # Safety
/// The rows of both matrices must lie in their memory, which must not overlap.
#[target_feature(enable = "avx512f,avx512bw")]
#[expect(unsafe_code, reason = "blocks are moved through pointers")]
pub(super) unsafe fn turn_halves(
    (source, source_row): (*const u16, usize),
    (target, target_row): (*mut u16, usize),
    [rows, cols]: [usize; 2],
) {
    for strip in (0..cols).step_by(STRIP) {
        for i in (0..rows).step_by(HALVES) {
            for j in (strip..cols.min(strip + STRIP)).step_by(HALVES) {
                // Elements of neighbouring rows come together in 32 bits, those of four columns of each eight at a time.
                for four in 0..2 {
                    let mut r = [_mm512_setzero_ps(); BLOCK];
                    for (a, r) in r.iter_mut().enumerate() {
                        // SAFETY: within the source by the caller's promise; a hint does not access memory.
                        let [first, second] = unsafe {
                            let at = source.add((i + 2 * a) * source_row + j);
                            if four == 0 {
                                for row in [HALVES, HALVES + 1] {
                                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(row * source_row).cast());
                                }
                            }
                            [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(source_row).cast())]
                        };
                        *r = _mm512_castsi512_ps(match four {
                            0 => _mm512_unpacklo_epi16(first, second),
                            _ => _mm512_unpackhi_epi16(first, second),
                        });
                    }
                    lines(r, |line, elements| {
                        let column = j + line / 4 * 8 + 4 * four + line % 4;
                        // SAFETY: within the target by the caller's promise.
                        unsafe { _mm512_storeu_ps(target.add(column * target_row + i).cast(), elements) }
                    });
                }
            }
        }
    }
}

/// The transposed tile of elements of 16 bits.
#[target_feature(enable = "sse2")]
#[inline]
pub(super) fn turn_half_tile(tile: [[u16; TILE]; TILE]) -> [[u16; TILE]; TILE] {
    let mut r: [__m128i; TILE] = bytemuck::cast(tile);
    // Each round brings rows together that are half as far apart, and doubles the elements of a column that are neighbours.
    for _ in 0..3 {
        let [a, b, c, d, e, f, g, h] = r;
        r = [
            _mm_unpacklo_epi16(a, e),
            _mm_unpackhi_epi16(a, e),
            _mm_unpacklo_epi16(b, f),
            _mm_unpackhi_epi16(b, f),
            _mm_unpacklo_epi16(c, g),
            _mm_unpackhi_epi16(c, g),
            _mm_unpacklo_epi16(d, h),
            _mm_unpackhi_epi16(d, h),
        ];
    }
    bytemuck::cast(r)
}
