// Gradient of layer_norm with respect to its scale and bias.
#include "norm.h"

#define AFFINE(T, name)                                                                                               \
    KERNEL(THREADS, layer_norm_grad_affine_##name, const T* x, const T* dy, const T* mean, const T* rstd, f64* parts, i64 rows, i64 cols) { \
        norm_affine<true>(x, dy, mean, rstd, parts, rows, cols);                                                      \
    }                                                                                                                 \
    KERNEL(THREADS, layer_norm_grad_affine_finish_##name, const f64* parts, T* dscale, T* dbias, i64 many, i64 cols) { \
        norm_affine_finish(parts, dscale, dbias, many, cols);                                                         \
    }
FOR_FLOATS(AFFINE)
