// g[k] += hyper[scale] * d[k].
#include "kernel.h"

KERNEL(THREADS, accumulate, const f32* d, const f32* hyper, f32* g, i64 scale, i64 n) {
    f32 factor = hyper[scale];
    each(n, [=](i64 k) { g[k] = fma(factor, d[k], g[k]); });
}
