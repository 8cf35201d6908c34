// Normalisation of groups of channels.
#include "norm.h"

#define FORWARD(T, X, Y, name)                                                                                        \
    KERNEL(GROUP, group_norm_##name, const X* x, const T* scale, const T* bias, Y* y, T* mean, T* rstd, i64 groups,   \
           i64 depth, i64 inner, f64 epsilon) {                                                                       \
        group_norm_forward(x, scale, bias, mean, rstd, groups, depth, inner, epsilon,                                 \
                           [=](i64 i, T v) { y[i] = stored<Y>(v); });                                                 \
    }
FOR_ROUNDED_PAIRS(FORWARD)
