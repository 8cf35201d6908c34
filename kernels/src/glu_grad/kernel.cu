// The halves a and b of the rows of x become dy * f(b) and dy * a * f'(b); x is [rows, 2, n], and gate says which half is b.
#include "function.h"

template <class T>
DEVICE void slopes(int function, const T* dy, T* x, T alpha, T beta, i64 n, i64 gate, i64 len) {
    each(len, [=](i64 i) {
        i64 first = i + over(i, n) * n;
        T *a = x + first + (1 - gate) * n, *b = x + first + gate * n;
        T d = dy[i], outer = *a, inner = *b;
        *a = d * value(function, inner, alpha, beta);
        *b = d * outer * slope(function, inner, alpha, beta);
    });
}

#define REAL(T, name)                                                                                                 \
    KERNEL(THREADS, glu_grad_##name, int function, const T* dy, T* x, T alpha, T beta, i64 n, i64 gate, i64 len) {    \
        slopes(function, dy, x, alpha, beta, n, gate, len);                                                           \
    }
FOR_FLOATS(REAL)
