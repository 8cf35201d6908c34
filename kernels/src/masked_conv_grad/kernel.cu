// Gradient of a convolution's weight at its trained entries: rows are output channels, columns input channels and taps, terms
// output elements of all images.
#include "conv.h"
#include "masked.h"

template <class T>
struct Sides {
    const Geometry& g;
    const T *x, *dy;
    DEVICE T left(i64 o, i64 k) const {
        i64 points = g.outputs();
        return dy[(k / points * g.co + o) * points + k % points];
    }
    // Columns are those of the group of channel o.
    DEVICE T right(i64 o, i64 column, i64 k) const {
        i64 points = g.outputs(), taps = g.taps(), ci = g.ci / g.groups, group = o / (g.co / g.groups);
        i64 at = g.source(k % points, column % taps);
        return at < 0 ? T(0) : x[(k / points * g.ci + group * ci + column / taps) * g.inputs() + at];
    }
};

#define MASKED(T, name)                                                                                               \
    KERNEL(THREADS, masked_conv_grad_sample_##name, Geometry g, const T* x, const T* dy, const u32* idx, T* dp,       \
           i64 count, i64 cols, i64 terms) {                                                                          \
        Sides<T> s{g, x, dy};                                                                                         \
        sample_places(idx, count, cols, terms, dp,                                                                    \
                      [&](i64 row, i64 column, i64 k) { return s.left(row, k) * s.right(row, column, k); });          \
    }                                                                                                                 \
    KERNEL(THREADS, masked_conv_grad_tile_##name, Geometry g, const T* x, const T* dy, const u32* idx, T* dp,         \
           i64 count, i64 cols, i64 terms) {                                                                          \
        Sides<T> s{g, x, dy};                                                                                         \
        i64 co = g.co / g.groups, first = blockIdx.z * co;                                                            \
        tile_places(idx, count, cols, first + blockIdx.y * TILE, first + co, block_id() * TILE, terms, false, true,   \
                    dp, [&](i64 i, i64 k) { return s.left(i, k); },                                                   \
                    [&](i64 k, i64 j) { return s.right(first, j, k); });                                              \
    }
FOR_FLOATS(MASKED)
