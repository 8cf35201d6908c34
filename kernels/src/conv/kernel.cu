// Convolution as a product: output channels of a group by output elements of all images, over input channels and taps.
#include "conv.h"

template <class T>
DEVICE void put(const Geometry& g, const T* bias, T* y, i64 group, i64 o, i64 j, T sum) {
    i64 channel = group * over(g.co, g.groups) + o, points = g.outputs();
    y[(over(j, points) * g.co + channel) * points + rest(j, points)] = bias ? sum + bias[channel] : sum;
}

template <Precision P, class S, class T>
DEVICE void convolve(const Geometry& g, const T* x, const S* w, const T* bias, T* y, const Split<T>& split) {
    i64 co = over(g.co, g.groups), terms = over(g.ci, g.groups) * g.taps(), group = blockIdx.z;
    Plain<S> left{w + group * co * terms, terms, 1};
    product<T, P>(group, co, g.n * g.outputs(), terms, false, true, left, Sources<T>{g, x, group}, split, g.groups,
                     [&](i64 o, i64 j, T sum) { put(g, bias, y, group, o, j, sum); });
}

#define CONVOLVE(S, T, name, P, BLOCKS)                                                                               \
    KERNEL_OF(THREADS, BLOCKS, conv_##name, Geometry g, const T* x,                                                   \
              const S* w, const T* bias, T* y, Split<T> split) {                                                      \
        convolve<P>(g, x, w, bias, y, split);                                                                         \
    }
FOR_WEIGHTS(CONVOLVE)

#define JOIN(T, name)                                                                                                 \
    KERNEL(THREADS, conv_join_##name, Geometry g, const T* parts, const T* bias, T* y, i64 shares) {                  \
        i64 co = over(g.co, g.groups), n = g.n * g.outputs(), all = g.co * n;                                         \
        each(all, [&](i64 e) { put(g, bias, y, over(over(e, n), co), rest(over(e, n), co), rest(e, n),                \
                 joined(parts, e, all, shares)); });                                                                  \
    }
FOR_FLOATS(JOIN)
