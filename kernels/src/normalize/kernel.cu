// x /= sqrt(sum(x^2)).
#include "sums.h"

#define NORMALIZE(T, name)                                                                                            \
    KERNEL(THREADS, normalize_parts_##name, const T* x, f64* parts, i64 n) {                                          \
        sum_parts(n, parts, [=](i64 i) { return f64(x[i]) * f64(x[i]); });                                            \
    }                                                                                                                 \
    KERNEL(THREADS, normalize_scale_##name, const f64* parts, T* x, i64 many, i64 n) {                                \
        f64 norm = sqrt(sum_of_parts(parts, many));                                                                   \
        if (norm == 0) return;                                                                                        \
        f64 factor = 1 / norm;                                                                                        \
        each(n, [=](i64 i) { x[i] = T(f64(x[i]) * factor); });                                                        \
    }
FOR_FLOATS(NORMALIZE)
