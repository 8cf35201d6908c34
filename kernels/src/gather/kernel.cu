// y[o, j, i] = x[o, index[j], i].
#include "kernel.h"

#define GATHER(T, name)                                                                                               \
    KERNEL(THREADS, gather_##name, const T* x, const i64* index, T* y, i64 count, i64 axis, i64 inner, i64 absent,    \
           i64 n) {                                                                                                   \
        each(n, [=](i64 i) {                                                                                          \
            i64 line = over(i, inner), from = index[rest(line, count)];                                                         \
            from += from < 0 ? axis : 0;                                                                              \
            bool inside = from >= 0 && from < axis;                                                                   \
            y[i] = inside ? x[(over(line, count) * axis + from) * inner + rest(i, inner)] : T(absent);                          \
        });                                                                                                           \
    }
FOR_WORDS(GATHER)
