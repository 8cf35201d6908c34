// Gradient of layer_norm with respect to its input.
#include "norm.h"

#define GRADIENT(T, name)                                                                                             \
    KERNEL(THREADS, layer_norm_grad_##name, const T* x, const T* dy, const T* scale, const T* mean, const T* rstd, T* dx, i64 cols) { \
        norm_gradient<true>(x, dy, scale, mean, rstd, dx, cols);                                                      \
    }
FOR_FLOATS(GRADIENT)
