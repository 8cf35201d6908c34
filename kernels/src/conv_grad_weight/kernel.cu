// Dense gradient of a convolution's weight as a product: output channels of a group by input channels and taps, over output
// elements of all images.
#include "conv.h"

#define GRADIENT(T, name, P)                                                                                          \
    KERNEL(THREADS, conv_grad_weight_##name, Geometry g, const T* x, const T* dy, T* dw, Split<T> split) {            \
        i64 co = over(g.co, g.groups), n = over(g.ci, g.groups) * g.taps(), group = blockIdx.z;                       \
        Channels<T> left{dy, g.co, group * co, g.outputs()};                                                          \
        Turned<Sources<T, 3>> right{{g, x, group}};                                                                      \
        product<T, P>(group, co, n, g.n * g.outputs(), false, false, left, right, split, g.groups,                    \
                      [&](i64 o, i64 j, T sum) { dw[(group * co + o) * n + j] = sum; });                              \
    }
FOR_PRODUCTS(GRADIENT)

#define JOIN(T, name)                                                                                                 \
    KERNEL(THREADS, conv_grad_weight_join_##name, const T* parts, T* dw, i64 all, i64 shares) {                       \
        each(all, [&](i64 e) { dw[e] = joined(parts, e, all, shares); });                                             \
    }
FOR_FLOATS(JOIN)
