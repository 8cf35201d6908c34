// dx[i] = 2 (x[i] - t[i]) / n.
#include "kernel.h"

#define SLOPE(T, name)                                                                                                \
    KERNEL(THREADS, mse_loss_grad_##name, const T* x, const T* t, T* dx, f64 factor, i64 n) {                         \
        each(n, [=](i64 i) { dx[i] = T((f64(x[i]) - f64(t[i])) * factor); });                                         \
    }
FOR_FLOATS(SLOPE)
