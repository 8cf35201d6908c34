// y[i] = f(x[i]).
#include "function.h"
#include "half.h"

template <class T, class X, class Y>
DEVICE void reals(int function, const X* x, Y* y, T alpha, T beta, i64 n) {
    each(n, [=](i64 i) { y[i] = stored<Y>(value(function, wide(x[i]), alpha, beta)); });
}

#define REAL(T, X, Y, name)                                                                                           \
    KERNEL(THREADS, unary_##name, int function, const X* x, Y* y, T alpha, T beta, i64 n) {                           \
        reals(function, x, y, alpha, beta, n);                                                                        \
    }
FOR_ROUNDED_PAIRS(REAL)

#define INTEGER(T, name)                                                                                              \
    KERNEL(THREADS, unary_##name##_##name, int function, const T* x, T* y, i64 low, i64 high, i64 n) {                \
        each(n, [=](i64 i) { y[i] = integer(function, x[i], T(low), T(high)); });                                     \
    }
FOR_INTEGERS(INTEGER)
