// y[idx[k]] = p[k].
#include "kernel.h"

#define SCATTER(T, name)                                                                                              \
    KERNEL(THREADS, scatter_##name, const T* p, const u32* idx, T* y, i64 n) {                                        \
        each(n, [=](i64 k) { y[idx[k]] = p[k]; });                                                                    \
    }
SCATTER(u32, b4)
SCATTER(u64, b8)
