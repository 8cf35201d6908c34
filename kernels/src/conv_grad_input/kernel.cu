// Gradient of a convolution's input as a product: input channels of a group by input elements of all images, over output
// channels and taps.
#include "conv.h"

template <class T>
DEVICE void gradient(const Geometry& g, const T* dy, const T* w, T* dx) {
    i64 co = g.co / g.groups, ci = g.ci / g.groups, taps = g.taps(), points = g.outputs(), inputs = g.inputs();
    i64 group = blockIdx.z, row = blockIdx.y * TILE, column = block_id() * TILE, n = g.n * inputs, terms = co * taps;
    product_tile<T>(
        row, column, ci, n, terms, false, false,
        [&](i64 c, i64 k) { return w[((group * co + k / taps) * ci + c) * taps + k % taps]; },
        [&](i64 k, i64 j) {
            i64 at = g.target(j % inputs, k % taps);
            return at < 0 ? T(0) : dy[(j / inputs * g.co + group * co + k / taps) * points + at];
        },
        [&](i64 c, i64 j, T sum) { dx[(j / inputs * g.ci + group * ci + c) * inputs + j % inputs] = sum; });
}

#define GRADIENT(T, name)                                                                                             \
    KERNEL(THREADS, conv_grad_input_##name, Geometry g, const T* dy, const T* w, T* dx) {                             \
        gradient(g, dy, w, dx);                                                                                       \
    }
FOR_FLOATS(GRADIENT)
