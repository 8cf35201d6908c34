// Gradient of rms_norm with respect to its input.
#include "norm.h"

#define GRADIENT(T, name)                                                                                             \
    KERNEL(THREADS, rms_norm_grad_##name, const T* x, const T* dy, const T* scale, const T* rstd, T* dx, i64 cols) {  \
        norm_gradient<false>(x, dy, scale, (const T*)nullptr, rstd, dx, cols);                                        \
    }
FOR_FLOATS(GRADIENT)
