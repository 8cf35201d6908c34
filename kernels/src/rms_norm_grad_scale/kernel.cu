// Gradient of rms_norm with respect to its scale.
#include "norm.h"

#define AFFINE(T, name)                                                                                               \
    KERNEL(THREADS, rms_norm_grad_scale_##name, const T* x, const T* dy, const T* rstd, f64* parts, i64 rows, i64 cols) { \
        norm_affine<false>(x, dy, (const T*)nullptr, rstd, parts, rows, cols);                                        \
    }                                                                                                                 \
    KERNEL(THREADS, rms_norm_grad_scale_finish_##name, const f64* parts, T* dscale, i64 many, i64 cols) {             \
        norm_affine_finish(parts, dscale, (T*)nullptr, many, cols);                                                   \
    }
FOR_FLOATS(AFFINE)
