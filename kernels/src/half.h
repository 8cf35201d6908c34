// Types of half precision and tf32, and the products of tensor cores.
#pragma once
#include "kernel.h"

// The bits of a number, and the number of bits.
DEVICE u32 bits_of(f32 value) {
    union {
        f32 value;
        u32 bits;
    } w;
    w.value = value;
    return w.bits;
}
DEVICE f32 of_bits(u32 bits) {
    union {
        u32 bits;
        f32 value;
    } w;
    w.bits = bits;
    return w.value;
}

// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
DEVICE u32 narrow_bits(f32 x) {
    u32 bits = bits_of(x);
    return x != x ? 0x7fc0u | (bits >> 16) : (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
}

// A number in bfloat16 as it is stored.
struct bf16 {
    u16 bits;
    DEVICE static bf16 of(f32 x) {
        return {u16(narrow_bits(x))};
    }
};

// A number in IEEE half precision as it is stored. Rounding is to nearest, ties to even; numbers beyond the largest become the largest,
// infinity and NaN stay.
struct f16 {
    u16 bits;
    DEVICE static f16 of(f32 x) {
        const u32 sign = bits_of(x) >> 16 & 0x8000, magnitude = bits_of(x) & 0x7fffffff;
        if (magnitude >= 0x7f800000) return {u16(sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00))};
        const f32 within = least(of_bits(magnitude), 65504.0f);
#ifdef __CUDACC_RTC__
        u16 bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(within));
        return {u16(sign | bits)};
#else
        // Below 2^-14, the sum with a half is rounded to a multiple of the smallest number, which its last bits count.
        if (within < 6.103515625e-5f) return {u16(sign | (bits_of(within + 0.5f) - bits_of(0.5f)))};
        const u32 normal = bits_of(within) - (112u << 23);
        return {u16(sign | (normal + 0xfff + (normal >> 13 & 1)) >> 13)};
#endif
    }
};

DEVICE f32 wide(bf16 x) {
    return of_bits(u32(x.bits) << 16);
}
DEVICE f32 wide(f16 x) {
#ifdef __CUDACC_RTC__
    f32 value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
#else
    const u32 sign = (x.bits & 0x8000u) << 16, magnitude = (x.bits & 0x7fffu) << 13;
    // Exponents count from another place. Those of infinity and NaN are the largest of either type.
    if (magnitude >= 31u << 23) return of_bits(sign | (magnitude + (224u << 23)));
    if (magnitude >= 1u << 23) return of_bits(sign | (magnitude + (112u << 23)));
    // Without a leading one: with a one before them the same bits stand for 2^-14 more.
    return of_bits(sign | bits_of(of_bits(magnitude + (113u << 23)) - of_bits(113u << 23)));
#endif
}
DEVICE f32 wide(f32 x) {
    return x;
}
DEVICE f64 wide(f64 x) {
    return x;
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
    if constexpr (sizeof(S) == 2) return S::of(f32(x));
    else return S(x);
}

// Makes entry points for the float types and for bfloat16 where it stands for f32: make(type of arithmetic, type, name of the type).
#define FOR_ROUNDED(make) make(f32, f32, f32) make(f64, f64, f64) make(f32, bf16, bf16)
// The same for two types: make(type of arithmetic, first type, second type, names of the types).
#define FOR_ROUNDED_PAIRS(make)                                                                                       \
    make(f32, f32, f32, f32_f32) make(f64, f64, f64, f64_f64) make(f32, f32, bf16, f32_bf16)                          \
        make(f32, bf16, f32, bf16_f32) make(f32, bf16, bf16, bf16_bf16)

// Blocks of products in half precision for which a multiprocessor has registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int HALF_BLOCKS = 1;
#else
constexpr int HALF_BLOCKS = 2;
#endif

// Single precision with 10 bits after the point, to nearest.
DEVICE u32 tf32(f32 x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
#else
    return x != x ? 0x7fffe000u : (bits_of(x) + 0x1000u) & ~0x1fffu;
#endif
}

// sum += a @ b by a warp: 16 rows, 8 columns, 8 words of terms, which are two in bfloat16 (mma.sync.m16n8k16) or one in tf32 (m16n8k8).
// With group = lane / 4 and word = lane % 4, a lane has of a this word of rows group and group + 8, then that 4 further; of b the same
// words of column group; of the sums rows group and group + 8 at columns 2 word and 2 word + 1.
template <bool TF32>
struct MultiplyAdd {
    u32 a[4], b[2];

    DEVICE static f32 term(u32 word, int e) {
        if constexpr (TF32) return of_bits(word);
        return e ? high_half(word) : low_half(word);
    }

    // Adds the products of the terms that lanes `owner` of each four have; the operands are those lanes'.
    template <class S>
    DEVICE static void terms(S (&sum)[4], u32 top, u32 bottom, u32 left, u32 right) {
        UNROLL
        for (int e = 0; e < (TF32 ? 1 : 2); e++) {
            sum[0] = fma(S(term(top, e)), S(term(left, e)), sum[0]);
            sum[1] = fma(S(term(top, e)), S(term(right, e)), sum[1]);
            sum[2] = fma(S(term(bottom, e)), S(term(left, e)), sum[2]);
            sum[3] = fma(S(term(bottom, e)), S(term(right, e)), sum[3]);
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

template <bool TF32 = false>
DEVICE void multiply_add(f32 (&sum)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (TF32)
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    MultiplyAdd<TF32> own = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
#ifdef __CUDACC_RTC__
    own.by_exchange(sum);
#else
    // A processor's threads exchange everything at once.
    MultiplyAdd<TF32> all[WARP];
    FROM_ALL_LANES(own, all);
    const int lane = thread_id() % WARP, group = lane / 4, pair = lane % 4;
    f64 exact[4] = {sum[0], sum[1], sum[2], sum[3]};
    for (int k = 0; k < 8; k++) {
        const int half = k / 4, owner = k % 4;
        const MultiplyAdd<TF32> &row = all[group * 4 + owner], &left = all[pair * 8 + owner], &right = all[pair * 8 + 4 + owner];
        MultiplyAdd<TF32>::terms(exact, row.a[2 * half], row.a[2 * half + 1], left.b[half], right.b[half]);
    }
    // PTX leaves the rounding of sums open: here, as on many devices, it is towards zero.
    for (int e = 0; e < 4; e++) {
        sum[e] = f32(exact[e]);
        if (fabs(f64(sum[e])) > fabs(exact[e]) && !isinf(sum[e])) sum[e] = of_bits(bits_of(sum[e]) - 1);
    }
#endif
#endif
}

// 16 bytes, which are loaded and stored at once.
struct alignas(16) Quad {
    u32 of[4];
};

// Four matrices of eight rows, each of a quad in shared memory, which lanes name, eight for each matrix. Of each matrix a lane gets word
// lane % 4 of row lane / 4 (ldmatrix).
DEVICE void load_matrices(u32 (&to)[4], const Quad& row) {
#ifdef __CUDACC_RTC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(u32(__cvta_generic_to_shared(&row))));
#else
    const Quad *own = &row, *rows[WARP];
    FROM_ALL_LANES(own, rows);
    const int lane = thread_id() % WARP;
    for (int m = 0; m < 4; m++) to[m] = rows[m * 8 + lane / 4]->of[lane % 4];
#endif
}
