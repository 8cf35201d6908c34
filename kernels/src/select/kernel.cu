// y[i] = cond[..] ? a[..] : b[..], with broadcasting.
#include "kernel.h"

#define SELECT(T, name)                                                                                               \
    KERNEL(THREADS, select_##name, Space<3> space, const u8* cond, const T* a, const T* b, T* y, i64 n) {             \
        each(n, [&](i64 i) {                                                                                          \
            i64 at[3];                                                                                                \
            space.at(i, at);                                                                                          \
            y[i] = cond[at[0]] ? a[at[1]] : b[at[2]];                                                                 \
        });                                                                                                           \
    }
FOR_WORDS(SELECT)
