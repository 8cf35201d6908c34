// dx[i] = dy[i] * f'(x[i]).
#include "function.h"
#include "half.h"

template <class T, class X>
DEVICE void slopes(int function, const X* x, const T* dy, T* dx, T alpha, T beta, i64 n) {
    each(n, [=](i64 i) { dx[i] = dy[i] * slope(function, wide(x[i]), alpha, beta); });
}

#define REAL(T, X, name)                                                                                              \
    KERNEL(THREADS, unary_grad_##name, int function, const X* x, const T* dy, T* dx, T alpha, T beta, i64 n) {        \
        slopes(function, x, dy, dx, alpha, beta, n);                                                                  \
    }
FOR_ROUNDED(REAL)
