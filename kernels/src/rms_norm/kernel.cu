// Root mean square normalisation.
#include "norm.h"

#define FORWARD(T, X, Y, name)                                                                                        \
    KERNEL(THREADS, rms_norm_##name, const X* x, const T* scale, Y* y, T* rstd, i64 cols, f64 epsilon) {              \
        norm_forward<false>(x, scale, (const T*)nullptr, (T*)nullptr, rstd, cols, epsilon,                            \
                            [=](i64 i, T v) { y[i] = stored<Y>(v); });                                                \
    }
FOR_ROUNDED_PAIRS(FORWARD)
