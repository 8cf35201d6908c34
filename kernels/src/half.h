// bfloat16, and the products of tensor cores.
#pragma once
#include "kernel.h"

// A number in bfloat16 as it is stored.
struct bf16 {
    u16 bits;
};

DEVICE f32 wide(bf16 x) {
    union {
        u32 bits;
        f32 value;
    } w;
    w.bits = u32(x.bits) << 16;
    return w.value;
}
DEVICE f32 wide(f32 x) {
    return x;
}
DEVICE f64 wide(f64 x) {
    return x;
}

// Rounds to nearest, ties to even; NaN stays NaN.
DEVICE u32 narrow_bits(f32 x) {
    union {
        f32 value;
        u32 bits;
    } w;
    w.value = x;
    return x != x ? 0x7fc0u | (w.bits >> 16) : (w.bits + 0x7fffu + ((w.bits >> 16) & 1)) >> 16;
}
DEVICE bf16 narrow(f32 x) {
    return bf16{u16(narrow_bits(x))};
}
// Two numbers rounded to bfloat16, the first in the lower half.
DEVICE u32 pack(f32 low, f32 high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return narrow_bits(low) | narrow_bits(high) << 16;
#endif
}
DEVICE f32 low_half(u32 pair) {
    return wide(bf16{u16(pair)});
}
DEVICE f32 high_half(u32 pair) {
    return wide(bf16{u16(pair >> 16)});
}

// A value as the type of memory has it.
template <class S, class T>
DEVICE S stored(T x) {
    if constexpr (sizeof(S) == 2) return narrow(f32(x));
    else return S(x);
}

// Blocks of products in half precision for which a multiprocessor has registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int HALF_BLOCKS = 1;
#else
constexpr int HALF_BLOCKS = 2;
#endif

// sum += a @ b by a warp: 16 rows, 8 columns, 16 terms (mma.sync.m16n8k16). With group = lane / 4 and pair = lane % 4, a lane has
// of a the terms 2 pair and 2 pair + 1 of rows group and group + 8, then those 8 further; of b the same terms of column group; of
// the sums rows group and group + 8 at columns 2 pair and 2 pair + 1.
struct MultiplyAdd {
    u32 a[4], b[2];

    // Adds the products of the terms that lanes `owner` of each four have; the operands are those lanes'.
    DEVICE static void terms(f32 (&sum)[4], u32 top, u32 bottom, u32 left, u32 right) {
        f32 operands[4][2] = {{low_half(top), high_half(top)}, {low_half(bottom), high_half(bottom)},
                              {low_half(left), high_half(left)}, {low_half(right), high_half(right)}};
        UNROLL
        for (int e = 0; e < 2; e++) {
            sum[0] = fma(operands[0][e], operands[2][e], sum[0]);
            sum[1] = fma(operands[0][e], operands[3][e], sum[1]);
            sum[2] = fma(operands[1][e], operands[2][e], sum[2]);
            sum[3] = fma(operands[1][e], operands[3][e], sum[3]);
        }
    }

    // For devices without bfloat16, whose lanes exchange the operands.
    DEVICE void by_exchange(f32 (&sum)[4]) const {
        const int lane = thread_id() % WARP, group = lane / 4, pair = lane % 4;
        _Pragma("unroll 1") for (int k = 0; k < 8; k++) {
            const int half = k / 4, owner = k % 4;
            u32 top = __shfl_sync(ALL, half ? a[2] : a[0], group * 4 + owner);
            u32 bottom = __shfl_sync(ALL, half ? a[3] : a[1], group * 4 + owner);
            u32 left = __shfl_sync(ALL, half ? b[1] : b[0], pair * 8 + owner);
            u32 right = __shfl_sync(ALL, half ? b[1] : b[0], pair * 8 + 4 + owner);
            terms(sum, top, bottom, left, right);
        }
    }
};

DEVICE void multiply_add(f32 (&sum)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    MultiplyAdd own = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
#ifdef __CUDACC_RTC__
    own.by_exchange(sum);
#else
    // A processor's threads exchange everything at once.
    MultiplyAdd all[WARP];
    FROM_ALL_LANES(own, all);
    const int lane = thread_id() % WARP, group = lane / 4, pair = lane % 4;
    for (int k = 0; k < 8; k++) {
        const int half = k / 4, owner = k % 4;
        const MultiplyAdd &row = all[group * 4 + owner], &left = all[pair * 8 + owner], &right = all[pair * 8 + 4 + owner];
        MultiplyAdd::terms(sum, row.a[2 * half], row.a[2 * half + 1], left.b[half], right.b[half]);
    }
#endif
#endif
}
