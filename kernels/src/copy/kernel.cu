// y[..] = x[..], both strided.
#include "kernel.h"

// Every index reaches another element of y.
#define COPY(T, name)                                                                                                 \
    KERNEL(THREADS, copy_##name, Space<2> space, const T* x, T* y, i64 n) {                                           \
        each(n, [&](i64 i) {                                                                                          \
            i64 at[2];                                                                                                \
            space.at(i, at);                                                                                          \
            y[at[1]] = x[at[0]];                                                                                      \
        });                                                                                                           \
    }
FOR_WORDS(COPY)

// Elements of y may be reached more than once, so one thread takes the indices in order.
#define COPY_IN_ORDER(T, name)                                                                                        \
    KERNEL(WARP, copy_in_order_##name, Space<2> space, const T* x, T* y, i64 n) {                                     \
        if (thread_id() > 0) return;                                                                                  \
        for (i64 i = 0; i < n; i++) {                                                                                 \
            i64 at[2];                                                                                                \
            space.at(i, at);                                                                                          \
            y[at[1]] = x[at[0]];                                                                                      \
        }                                                                                                             \
    }
FOR_WORDS(COPY_IN_ORDER)
