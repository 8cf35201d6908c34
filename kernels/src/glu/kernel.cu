// y = a * f(b), where x is [rows, 2, n] and gate says which half of a row is b.
#include "function.h"
#include "half.h"

template <class T, class X, class Y>
DEVICE void units(int function, const X* x, Y* y, T alpha, T beta, i64 n, i64 gate, i64 len) {
    each(len, [=](i64 i) {
        i64 first = i + over(i, n) * n;
        y[i] = stored<Y>(wide(x[first + (1 - gate) * n]) * value(function, wide(x[first + gate * n]), alpha, beta));
    });
}

#define REAL(T, X, Y, name)                                                                                           \
    KERNEL(THREADS, glu_##name, int function, const X* x, Y* y, T alpha, T beta, i64 n, i64 gate, i64 len) {          \
        units(function, x, y, alpha, beta, n, gate, len);                                                             \
    }
FOR_ROUNDED_PAIRS(REAL)
