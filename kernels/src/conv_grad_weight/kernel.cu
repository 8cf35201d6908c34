// Dense gradient of a convolution's weight as a product: output channels of a group by input channels and taps, over output
// elements of all images.
#include "conv.h"

template <class T>
DEVICE void gradient(const Geometry& g, const T* x, const T* dy, T* dw) {
    i64 co = g.co / g.groups, ci = g.ci / g.groups, taps = g.taps(), points = g.outputs(), inputs = g.inputs();
    i64 group = blockIdx.z, row = blockIdx.y * TILE, column = block_id() * TILE, n = ci * taps, terms = g.n * points;
    product_tile<T>(
        row, column, co, n, terms, false, true,
        [&](i64 o, i64 k) { return dy[(k / points * g.co + group * co + o) * points + k % points]; },
        [&](i64 k, i64 j) {
            i64 at = g.source(k % points, j % taps);
            return at < 0 ? T(0) : x[(k / points * g.ci + group * ci + j / taps) * inputs + at];
        },
        [&](i64 o, i64 j, T sum) { dw[(group * co + o) * n + j] = sum; });
}

#define GRADIENT(T, name)                                                                                             \
    KERNEL(THREADS, conv_grad_weight_##name, Geometry g, const T* x, const T* dy, T* dw) {                            \
        gradient(g, x, dy, dw);                                                                                       \
    }
FOR_FLOATS(GRADIENT)
