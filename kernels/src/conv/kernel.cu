// Convolution as a product: output channels of a group by output elements of all images, over input channels and taps.
#include "conv.h"

template <class T>
DEVICE void convolve(const Geometry& g, const T* x, const T* w, const T* bias, T* y) {
    i64 co = g.co / g.groups, ci = g.ci / g.groups, taps = g.taps(), points = g.outputs(), inputs = g.inputs();
    i64 group = blockIdx.z, row = blockIdx.y * TILE, column = block_id() * TILE, n = g.n * points, terms = ci * taps;
    const T* own = w + group * co * terms;
    product_tile<T>(
        row, column, co, n, terms, false, false, [&](i64 o, i64 k) { return own[o * terms + k]; },
        [&](i64 k, i64 j) {
            i64 at = g.source(j % points, k % taps);
            return at < 0 ? T(0) : x[(j / points * g.ci + group * ci + k / taps) * inputs + at];
        },
        [&](i64 o, i64 j, T sum) {
            i64 channel = group * co + o;
            y[(j / points * g.co + channel) * points + j % points] = bias ? sum + bias[channel] : sum;
        });
}

#define CONVOLVE(T, name)                                                                                             \
    KERNEL(THREADS, conv_##name, Geometry g, const T* x, const T* w, const T* bias, T* y) {                           \
        convolve(g, x, w, bias, y);                                                                                   \
    }
FOR_FLOATS(CONVOLVE)
