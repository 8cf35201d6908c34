// Conversions between element types.
#pragma once
#include "half.h"

// Real numbers lose their fraction and stay within the range, NaN becomes 0; integers wrap.
template <class T, class S>
DEVICE T convert(S x) {
    if constexpr (S(0.5) != S(0) && T(0.5) == T(0)) {
        constexpr bool SIGNED = T(-1) < T(0);
        constexpr int BITS = 8 * sizeof(T);
        const T top = SIGNED ? T((u64(1) << (BITS - 1)) - 1) : T(~u64(0));
        const T bottom = SIGNED ? T(u64(1) << (BITS - 1)) : T(0);
        if (x != x) return T(0);
        if (x <= S(bottom)) return bottom;
        if (x >= S(top)) return top;
    }
    return T(x);
}

// What is computed with.
template <class S>
DEVICE S plain(S x) {
    return x;
}
DEVICE f32 plain(bf16 x) {
    return wide(x);
}
DEVICE f32 plain(f16 x) {
    return wide(x);
}
