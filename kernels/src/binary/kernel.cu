// y[i] = f(a[..], b[..]), with broadcasting.
#include "pair.h"

template <class T>
DEVICE void pairs(int function, const Space<2>& space, const T* a, const T* b, void* y, i64 n) {
    each(n, [&](i64 i) {
        i64 at[2];
        space.at(i, at);
        T left = a[at[0]], right = b[at[1]];
        if (function >= EQUAL && function <= GREATER_EQUAL) {
            static_cast<u8*>(y)[i] = compare(function, left, right);
        } else if constexpr (T(0.5) != T(0)) {
            static_cast<T*>(y)[i] = real(function, left, right);
        } else {
            static_cast<T*>(y)[i] = integer(function, left, right);
        }
    });
}

#define PAIRS(T, name)                                                                                                \
    KERNEL(THREADS, binary_##name, int function, Space<2> space, const T* a, const T* b, void* y, i64 n) {            \
        pairs(function, space, a, b, y, n);                                                                           \
    }
FOR_FLOATS(PAIRS)
FOR_INTEGERS(PAIRS)
