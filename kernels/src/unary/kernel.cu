// y[i] = f(x[i]).
#include "function.h"

template <class T>
DEVICE void reals(int function, const T* x, T* y, T alpha, T beta, i64 n) {
    each(n, [=](i64 i) { y[i] = value(function, x[i], alpha, beta); });
}

// Arithmetic is in 64 bits and cut to the type, so that it wraps.
template <class T>
DEVICE T integer(int function, T x, T low, T high) {
    switch (function) {
        case NEG: return T(0 - u64(x));
        case ABS: return x < T(0) ? T(0 - u64(x)) : x;
        case SIGN: return x > T(0) ? T(1) : T(0 - u64(x < T(0)));
        case RELU: return x < T(0) ? T(0) : x;
        case CLIP: return clamp(x, low, high);
        case NOT: return T(x == T(0));
        case BIT_NOT: return T(~u64(x));
    }
    return x;
}

#define REAL(T, name)                                                                                                 \
    KERNEL(THREADS, unary_##name, int function, const T* x, T* y, T alpha, T beta, i64 n) {                           \
        reals(function, x, y, alpha, beta, n);                                                                        \
    }
FOR_FLOATS(REAL)

#define INTEGER(T, name)                                                                                              \
    KERNEL(THREADS, unary_##name, int function, const T* x, T* y, i64 low, i64 high, i64 n) {                         \
        each(n, [=](i64 i) { y[i] = integer(function, x[i], T(low), T(high)); });                                     \
    }
FOR_INTEGERS(INTEGER)
