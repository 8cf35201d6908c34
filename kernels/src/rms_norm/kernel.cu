// Root mean square normalisation.
#include "norm.h"

#define FORWARD(T, name)                                                                                              \
    KERNEL(THREADS, rms_norm_##name, const T* x, const T* scale, T* y, T* rstd, i64 cols, f64 epsilon) {              \
        norm_forward<false>(x, scale, (const T*)nullptr, (T*)nullptr, rstd, cols, epsilon, [=](i64 i, T v) { y[i] = v; }); \
    }
FOR_FLOATS(FORWARD)
