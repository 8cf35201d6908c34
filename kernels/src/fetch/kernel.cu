// y[i] = stored[i], widened or narrowed, and then y[idx[k]] = p[k].
#include "half.h"

// The little-endian element i of bytes at any alignment.
template <class W>
DEVICE W word(const u8* stored, i64 i) {
    W bits = 0;
    UNROLL
    for (int b = 0; b < int(sizeof(W)); b++) bits |= W(stored[i * i64(sizeof(W)) + b]) << (8 * b);
    return bits;
}

DEVICE f32 single(u32 bits) {
    union {
        u32 bits;
        f32 value;
    } w;
    w.bits = bits;
    return w.value;
}

struct F32 {
    DEVICE static f32 read(const u8* stored, i64 i) {
        return single(word<u32>(stored, i));
    }
};
struct F64 {
    DEVICE static f64 read(const u8* stored, i64 i) {
        union {
            u64 bits;
            f64 value;
        } w;
        w.bits = word<u64>(stored, i);
        return w.value;
    }
};
struct BF16 {
    DEVICE static f32 read(const u8* stored, i64 i) {
        return single(u32(word<u16>(stored, i)) << 16);
    }
};
struct F16 {
    DEVICE static f32 read(const u8* stored, i64 i) {
        u32 bits = word<u16>(stored, i), sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
        if (exponent == 31) return single(sign | 0x7f800000 | fraction << 13);
        if (exponent > 0) return single(sign | (exponent + 112) << 23 | fraction << 13);
        // Numbers without a leading one count units of 2^-24.
        f32 value = f32(fraction) * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
};

#define FETCH(FORM, form, T, name)                                                                                    \
    KERNEL(THREADS, fetch_##form##_##name, const u8* stored, T* y, i64 n) {                                           \
        each(n, [&](i64 i) { y[i] = ::stored<T>(FORM::read(stored, i)); });                                           \
    }
FETCH(F32, f32, f32, f32)
FETCH(F16, f16, f32, f32)
FETCH(BF16, bf16, f32, f32)
FETCH(F32, f32, bf16, bf16)
FETCH(F16, f16, bf16, bf16)
FETCH(BF16, bf16, bf16, bf16)
FETCH(F64, f64, f64, f64)

#define OVER(T, name)                                                                                                 \
    KERNEL(THREADS, fetch_over_##name, const u32* idx, const f32* p, T* y, i64 n) {                                   \
        each(n, [&](i64 k) { y[idx[k]] = stored<T>(p[k]); });                                                         \
    }
FOR_FLOATS(OVER)
OVER(bf16, bf16)
