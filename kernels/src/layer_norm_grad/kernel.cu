// Gradient of layer_norm with respect to its input.
#include "norm.h"

#define GRADIENT(T, X, name)                                                                                          \
    KERNEL(THREADS, layer_norm_grad_##name, const X* x, const T* dy, const T* scale, const T* mean, const T* rstd, T* dx, i64 cols) { \
        norm_gradient<true>(x, dy, scale, mean, rstd, dx, cols);                                                      \
    }
FOR_ROUNDED(GRADIENT)
