// y = a * f(b), where x is [rows, 2, n] and gate says which half of a row is b.
#include "function.h"

template <class T>
DEVICE void units(int function, const T* x, T* y, T alpha, T beta, i64 n, i64 gate, i64 len) {
    each(len, [=](i64 i) {
        i64 first = i + over(i, n) * n;
        y[i] = x[first + (1 - gate) * n] * value(function, x[first + gate * n], alpha, beta);
    });
}

#define REAL(T, name)                                                                                                 \
    KERNEL(THREADS, glu_##name, int function, const T* x, T* y, T alpha, T beta, i64 n, i64 gate, i64 len) {          \
        units(function, x, y, alpha, beta, n, gate, len);                                                             \
    }
FOR_FLOATS(REAL)
