// y[k] = x[idx[k]].
#include "kernel.h"

#define TAKE(T, name)                                                                                                 \
    KERNEL(THREADS, take_##name, const T* x, const u32* idx, T* y, i64 n) {                                           \
        each(n, [=](i64 k) { y[k] = x[idx[k]]; });                                                                    \
    }
TAKE(u32, b4)
TAKE(u64, b8)
