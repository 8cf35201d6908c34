// Normalisation of groups of channels: a block for each group. Sums are in double precision.
#include "kernel.h"

constexpr int GROUP = 512;

template <class T>
DEVICE void forward(const T* x, const T* scale, const T* bias, T* y, T* mean, T* rstd, i64 groups, i64 depth, i64 inner,
                    f64 epsilon) {
    i64 group = block_id(), len = depth * inner, channel = rest(group, groups) * depth;
    x += group * len;
    y += group * len;
    f64 size = f64(len > 0 ? len : 1), sum = 0, spread = 0;
    for (i64 i = thread_id(); i < len; i += GROUP) sum += f64(x[i]);
    f64 center = block_sum<GROUP>(sum) / size;
    for (i64 i = thread_id(); i < len; i += GROUP) spread = fma(f64(x[i]) - center, f64(x[i]) - center, spread);
    f64 r = 1 / sqrt(block_sum<GROUP>(spread) / size + epsilon);
    if (thread_id() == 0) {
        mean[group] = T(center);
        rstd[group] = T(r);
    }
    for (i64 i = thread_id(); i < len; i += GROUP) {
        i64 c = channel + over(i, inner);
        y[i] = T(fma((f64(x[i]) - center) * r, scale ? f64(scale[c]) : 1, bias ? f64(bias[c]) : 0));
    }
}

#define FORWARD(T, name)                                                                                              \
    KERNEL(GROUP, group_norm_##name, const T* x, const T* scale, const T* bias, T* y, T* mean, T* rstd, i64 groups,   \
           i64 depth, i64 inner, f64 epsilon) {                                                                       \
        forward(x, scale, bias, y, mean, rstd, groups, depth, inner, epsilon);                                        \
    }
FOR_FLOATS(FORWARD)
