// Gradient of group_norm with respect to its input: a block for each group.
#include "half.h"

constexpr int GROUP = 512;

template <class X, class T>
DEVICE void gradient(const X* x, const T* dy, const T* scale, const T* mean, const T* rstd, T* dx, i64 groups, i64 depth,
                     i64 inner) {
    i64 group = block_id(), len = depth * inner, channel = rest(group, groups) * depth;
    x += group * len;
    dy += group * len;
    dx += group * len;
    f64 center = mean[group], r = rstd[group], plain = 0, tilted = 0;
    for (i64 i = thread_id(); i < len; i += GROUP) {
        f64 g = f64(dy[i]) * (scale ? f64(scale[channel + over(i, inner)]) : 1);
        plain += g;
        tilted = fma(g, f64(wide(x[i])) - center, tilted);
    }
    plain = block_sum<GROUP>(plain);
    tilted = block_sum<GROUP>(tilted);
    f64 b = -r * r * r * tilted / f64(len), c = -r * plain / f64(len);
    for (i64 i = thread_id(); i < len; i += GROUP) {
        f64 a = r * (scale ? f64(scale[channel + over(i, inner)]) : 1);
        dx[i] = T(fma(a, f64(dy[i]), fma(b, f64(wide(x[i])) - center, c)));
    }
}

#define GRADIENT(T, X, name)                                                                                          \
    KERNEL(GROUP, group_norm_grad_##name, const X* x, const T* dy, const T* scale, const T* mean, const T* rstd,      \
           T* dx, i64 groups, i64 depth, i64 inner) {                                                                 \
        gradient(x, dy, scale, mean, rstd, dx, groups, depth, inner);                                                 \
    }
FOR_ROUNDED(GRADIENT)
