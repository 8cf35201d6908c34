// Layer normalisation.
#include "norm.h"

#define FORWARD(T, X, Y, name)                                                                                        \
    KERNEL(THREADS, layer_norm_##name, const X* x, const T* scale, const T* bias, Y* y, T* mean, T* rstd, i64 cols, f64 epsilon) { \
        norm_forward<true>(x, scale, bias, mean, rstd, cols, epsilon, [=](i64 i, T v) { y[i] = stored<Y>(v); });      \
    }
FOR_ROUNDED_PAIRS(FORWARD)
