// dx[o, a, i] = the sum of dy[o, j, i] over the j for which index[j] is a, in their order.
#include "kernel.h"

template <class T>
DEVICE void spread(const T* dy, const i64* index, T* dx, i64 count, i64 axis, i64 inner, i64 n) {
    each_in_turn(n, [=](i64 i) {
        i64 line = over(i, inner), outer = over(line, axis), row = rest(line, axis);
        T sum = 0;
        for (i64 j = 0; j < count; j++) {
            i64 to = index[j];
            if (to == row || to + axis == row) sum += dy[(outer * count + j) * inner + rest(i, inner)];
        }
        dx[i] = sum;
    });
}

#define SPREAD(T, name)                                                                                               \
    KERNEL(THREADS, gather_grad_##name, const T* dy, const i64* index, T* dx, i64 count, i64 axis, i64 inner,         \
           i64 n) {                                                                                                   \
        spread(dy, index, dx, count, axis, inner, n);                                                                 \
    }
FOR_FLOATS(SPREAD)
