// y[i] = y[i] + b[..], or their product, with broadcasting.
#include "kernel.h"

#define IN_PLACE(T, name, function, sign)                                                                             \
    KERNEL(THREADS, function##_in_place_##name, Space<1> space, const T* b, T* y, i64 n) {                            \
        each(n, [&](i64 i) {                                                                                          \
            i64 at[1];                                                                                                \
            space.at(i, at);                                                                                          \
            y[i] = y[i] sign b[at[0]];                                                                                \
        });                                                                                                           \
    }
#define BOTH(T, name) IN_PLACE(T, name, add, +) IN_PLACE(T, name, mul, *)
FOR_FLOATS(BOTH)
