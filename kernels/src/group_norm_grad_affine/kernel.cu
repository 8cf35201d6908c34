// Gradient of group_norm with respect to its scale and bias: a block for each channel.
#include "kernel.h"

template <class T>
DEVICE void affine(const T* x, const T* dy, const T* mean, const T* rstd, T* dscale, T* dbias, i64 n, i64 channels,
                   i64 groups, i64 inner) {
    i64 channel = block_id(), depth = over(channels, groups);
    f64 plain = 0, tilted = 0;
    for (i64 image = 0; image < n; image++) {
        i64 group = image * groups + over(channel, depth), start = (image * channels + channel) * inner;
        f64 center = mean[group], r = rstd[group];
        for (i64 i = start + thread_id(); i < start + inner; i += THREADS) {
            plain += f64(dy[i]);
            tilted = fma(f64(dy[i]), (f64(x[i]) - center) * r, tilted);
        }
    }
    plain = block_sum<THREADS>(plain);
    tilted = block_sum<THREADS>(tilted);
    if (thread_id() == 0) {
        dscale[channel] = T(tilted);
        dbias[channel] = T(plain);
    }
}

#define AFFINE(T, name)                                                                                               \
    KERNEL(THREADS, group_norm_grad_affine_##name, const T* x, const T* dy, const T* mean, const T* rstd, T* dscale,  \
           T* dbias, i64 n, i64 channels, i64 groups, i64 inner) {                                                    \
        affine(x, dy, mean, rstd, dscale, dbias, n, channels, groups, inner);                                         \
    }
FOR_FLOATS(AFFINE)
