// loss = mean((x - t)^2).
#include "sums.h"

#define LOSS(T, name)                                                                                                 \
    KERNEL(THREADS, mse_loss_parts_##name, const T* x, const T* t, f64* parts, i64 n) {                               \
        sum_parts(n, parts, [=](i64 i) {                                                                              \
            f64 d = f64(x[i]) - f64(t[i]);                                                                            \
            return d * d;                                                                                             \
        });                                                                                                           \
    }                                                                                                                 \
    KERNEL(THREADS, mse_loss_finish_##name, const f64* parts, T* loss, i64 many, i64 n) {                             \
        f64 total = sum_of_parts(parts, many);                                                                        \
        if (thread_id() == 0) *loss = T(total / f64(n));                                                              \
    }
FOR_FLOATS(LOSS)
