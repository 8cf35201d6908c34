// Gradient of a convolution's weight at its trained entries: rows are output channels, columns input channels and taps, terms
// output elements of all images.
#include "conv.h"
#include "masked.h"

#define SAMPLE(X, Y, T, name)                                                                                         \
    KERNEL(THREADS, masked_conv_grad_sample_##name, Geometry g, const X* x, const Y* dy, const u32* idx, T* dp,       \
           i64 count, i64 cols, i64 terms) {                                                                          \
        i64 place = block_id() * (THREADS / WARP) + thread_id() / WARP;                                               \
        i64 group = place < count ? over(over(idx[place], cols), over(g.co, g.groups)) : 0;                           \
        sample_places(idx, count, cols, terms, dp, Channels<Y>{{dy}, g.co, 0, g.outputs()},                           \
                      Turned<Sources<X, 3>>{{g, x, group}});                                                          \
    }
FOR_ROUNDED_OPERANDS(SAMPLE)

#define TILES(X, Y, T, name, P)                                                                                       \
    KERNEL(THREADS, masked_conv_grad_tile_##name, Geometry g, const X* x, const Y* dy, const u32* idx, T* dp,         \
           i64 count, i64 cols, i64 terms, Split<T> split) {                                                          \
        i64 co = over(g.co, g.groups), group = blockIdx.z;                                                            \
        tile_places<P>(idx, count, group * co, co, cols, terms, false, false,                                         \
                    Channels<Y>{{dy}, g.co, group * co, g.outputs()}, Turned<Sources<X, 3>>{{g, x, group}}, dp, split); \
    }
FOR_ROUNDED_TILES(TILES)

#define JOIN(T, name) MASKED_JOIN(T, masked_conv_grad_join_##name)
FOR_FLOATS(JOIN)
