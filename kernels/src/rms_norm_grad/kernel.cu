// Gradient of rms_norm with respect to its input.
#include "norm.h"

#define GRADIENT(T, X, name)                                                                                          \
    KERNEL(THREADS, rms_norm_grad_##name, const X* x, const T* dy, const T* scale, const T* rstd, T* dx, i64 cols) {  \
        norm_gradient<false>(x, dy, scale, (const T*)nullptr, rstd, dx, cols);                                        \
    }
FOR_ROUNDED(GRADIENT)
