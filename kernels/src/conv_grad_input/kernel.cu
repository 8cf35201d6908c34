// Gradient of a convolution's input as a product: input channels of a group by input elements of all images, over output
// channels and taps.
#include "conv.h"

// A weight whose lines are input channels and whose terms are output channels of a group and taps.
template <class S>
struct Weight : Flat<S> {
    i64 ci, taps;

    DEVICE const S* line(i64 c) const {
        return this->at + c * taps;
    }
    DEVICE int term(i64 k) const {
        return int(over(k, taps) * ci * taps + rest(k, taps));
    }
};

template <class T>
DEVICE void put(const Geometry& g, T* dx, i64 group, i64 c, i64 j, T sum) {
    i64 inputs = g.inputs();
    dx[(over(j, inputs) * g.ci + group * over(g.ci, g.groups) + c) * inputs + rest(j, inputs)] = sum;
}

template <Precision P, int D, class Y, class S, class T>
DEVICE void gradient(const Geometry& g, const Y* dy, const S* w, T* dx, const Split<T>& split) {
    i64 co = over(g.co, g.groups), ci = over(g.ci, g.groups), taps = g.taps(), group = blockIdx.z;
    Weight<S> left{{w + group * co * ci * taps}, ci, taps};
    const auto own = [&](i64 c, i64 j, T sum) { put(g, dx, group, c, j, sum); };
    product<T, P>(group, ci, g.n * g.inputs(), co * taps, false, true, left, Targets<Y, D>{g, dy, group}, split, g.groups, own);
}

#define GRADIENT(S, Y, T, name, P, BLOCKS)                                                                            \
    KERNEL_OF(THREADS, BLOCKS, conv_grad_input_##name, Geometry g, const Y* dy,                                       \
              const S* w, T* dx, Split<T> split) {                                                                    \
        gradient<P, 2>(g, dy, w, dx, split);                                                                          \
    }                                                                                                                 \
    KERNEL(THREADS, conv_grad_input_volume_##name, Geometry g, const Y* dy,                                           \
              const S* w, T* dx, Split<T> split) {                                                                    \
        gradient<P, 3>(g, dy, w, dx, split);                                                                          \
    }
FOR_CONVOLUTIONS(GRADIENT)

#define JOIN(T, name)                                                                                                 \
    KERNEL(THREADS, conv_grad_input_join_##name, Geometry g, const T* parts, T* dx, i64 shares) {                     \
        i64 ci = over(g.ci, g.groups), n = g.n * g.inputs(), all = g.ci * n;                                          \
        each(all, [&](i64 e) { put(g, dx, over(over(e, n), ci), rest(over(e, n), ci), rest(e, n),                     \
                 joined(parts, e, all, shares)); });                                                                  \
    }
FOR_FLOATS(JOIN)
