// The halves a and b of the rows of x become dy * f(b) and dy * a * f'(b); x is [rows, 2, n], and gate says which half is b.
#include "function.h"
#include "half.h"

template <class T, class D, class X>
DEVICE void slopes(int function, const D* dy, X* x, T alpha, T beta, i64 n, i64 gate, i64 len) {
    each(len, [=](i64 i) {
        i64 first = i + over(i, n) * n;
        X *a = x + first + (1 - gate) * n, *b = x + first + gate * n;
        T d = wide(dy[i]), outer = wide(*a), inner = wide(*b);
        *a = stored<X>(d * value(function, inner, alpha, beta));
        *b = stored<X>(d * outer * slope(function, inner, alpha, beta));
    });
}

#define REAL(T, D, X, name)                                                                                           \
    KERNEL(THREADS, glu_grad_##name, int function, const D* dy, X* x, T alpha, T beta, i64 n, i64 gate, i64 len) {    \
        slopes(function, dy, x, alpha, beta, n, gate, len);                                                           \
    }
FOR_ROUNDED_PAIRS(REAL)
