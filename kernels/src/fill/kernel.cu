// y[i] = value, given by its bits.
#include "kernel.h"

#define FILL(T, name)                                                                                                 \
    KERNEL(THREADS, fill_##name, T* y, i64 bits, i64 n) {                                                             \
        each(n, [=](i64 i) { y[i] = T(bits); });                                                                      \
    }
FOR_WORDS(FILL)
