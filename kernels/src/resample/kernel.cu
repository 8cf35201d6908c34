// y[o, j, i] = the sum over t of weight[j, t] * x[o, index[j, t], i].
#include "kernel.h"

template <class T>
DEVICE void resample(const T* x, const i32* index, const f32* weight, T* y, i64 n_in, i64 n_out, i64 inner, i64 taps,
                     i64 n) {
    each_in_turn(n, [=](i64 i) {
        i64 line = over(i, inner), outer = over(line, n_out), j = rest(line, n_out);
        T sum = 0;
        for (i64 t = 0; t < taps; t++) {
            i64 from = index[j * taps + t];
            if (from >= 0) sum = fma(T(weight[j * taps + t]), x[(outer * n_in + from) * inner + rest(i, inner)], sum);
        }
        y[i] = sum;
    });
}

#define RESAMPLE(T, name)                                                                                             \
    KERNEL(THREADS, resample_##name, const T* x, const i32* index, const f32* weight, T* y, i64 n_in, i64 n_out,      \
           i64 inner, i64 taps, i64 n) {                                                                              \
        resample(x, index, weight, y, n_in, n_out, inner, taps, n);                                                   \
    }
FOR_FLOATS(RESAMPLE)
