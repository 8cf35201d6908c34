// dx[o, a, i] = the sum of weight[j, t] * dy[o, j, i] over the j and t for which index[j, t] is a, in their order.
#include "kernel.h"

template <class T>
DEVICE void spread(const T* dy, const i32* index, const f32* weight, T* dx, i64 n_in, i64 n_out, i64 inner, i64 taps,
                   i64 n) {
    each_in_turn(n, [=](i64 i) {
        i64 line = over(i, inner), outer = over(line, n_in), row = rest(line, n_in);
        T sum = 0;
        for (i64 k = 0; k < n_out * taps; k++)
            if (index[k] == row) sum = fma(T(weight[k]), dy[(outer * n_out + over(k, taps)) * inner + rest(i, inner)], sum);
        dx[i] = sum;
    });
}

#define SPREAD(T, name)                                                                                               \
    KERNEL(THREADS, resample_grad_##name, const T* dy, const i32* index, const f32* weight, T* dx, i64 n_in,          \
           i64 n_out, i64 inner, i64 taps, i64 n) {                                                                   \
        spread(dy, index, weight, dx, n_in, n_out, inner, taps, n);                                                   \
    }
FOR_FLOATS(SPREAD)
