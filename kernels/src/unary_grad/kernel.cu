// dx[i] = dy[i] * f'(x[i]).
#include "function.h"

template <class T>
DEVICE void slopes(int function, const T* x, const T* dy, T* dx, T alpha, T beta, i64 n) {
    each(n, [=](i64 i) { dx[i] = dy[i] * slope(function, x[i], alpha, beta); });
}

#define REAL(T, name)                                                                                                 \
    KERNEL(THREADS, unary_grad_##name, int function, const T* x, const T* dy, T* dx, T alpha, T beta, i64 n) {        \
        slopes(function, x, dy, dx, alpha, beta, n);                                                                  \
    }
FOR_FLOATS(REAL)
