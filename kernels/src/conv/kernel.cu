// Convolution.
#include "conv.h"

#define CONVOLVE(S, X, T, name, P, BLOCKS)                                                                            \
    KERNEL_OF(THREADS, BLOCKS, conv_##name, Geometry g, const X* x,                                                   \
              const S* w, const T* bias, T* y, Split<T> split) {                                                      \
        convolve<P, 2>(g, x, w, bias, split, [=](i64 i, T v) { y[i] = v; });                                          \
    }                                                                                                                 \
    KERNEL(THREADS, conv_volume_##name, Geometry g, const X* x,                                                       \
              const S* w, const T* bias, T* y, Split<T> split) {                                                      \
        convolve<P, 3>(g, x, w, bias, split, [=](i64 i, T v) { y[i] = v; });                                          \
    }
FOR_CONVOLUTIONS(CONVOLVE)

#define JOIN(T, name)                                                                                                 \
    KERNEL(THREADS, conv_join_##name, Geometry g, const T* parts, const T* bias, T* y, i64 shares) {                  \
        convolve_join(g, parts, bias, shares, [=](i64 i, T v) { y[i] = v; });                                         \
    }
FOR_FLOATS(JOIN)
