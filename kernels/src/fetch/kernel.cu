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

struct F32 {
    DEVICE static f32 read(const u8* stored, i64 i) {
        return of_bits(word<u32>(stored, i));
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
        return wide(bf16{word<u16>(stored, i)});
    }
};
struct F16 {
    DEVICE static f32 read(const u8* stored, i64 i) {
        return wide(f16{word<u16>(stored, i)});
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
FETCH(F32, f32, f16, f16)
FETCH(F16, f16, f16, f16)
FETCH(BF16, bf16, f16, f16)
FETCH(F64, f64, f64, f64)

#define OVER(T, name)                                                                                                 \
    KERNEL(THREADS, fetch_over_##name, const u32* idx, const f32* p, T* y, i64 n) {                                   \
        each(n, [&](i64 k) { y[idx[k]] = stored<T>(p[k]); });                                                         \
    }
FOR_FLOATS(OVER)
OVER(bf16, bf16)
OVER(f16, f16)
