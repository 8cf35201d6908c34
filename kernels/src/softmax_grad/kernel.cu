// dx = y * (dy - sum(y * dy)) along the middle of [outer, n, inner].
#include "kernel.h"

constexpr int LINE = 128;

// A block for each line, whose elements lie side by side.
template <class T>
DEVICE void by_blocks(const T* y, const T* dy, T* dx, i64 n) {
    i64 start = block_id() * n;
    f64 sum = 0;
    for (i64 i = start + thread_id(); i < start + n; i += LINE) sum = fma(f64(y[i]), f64(dy[i]), sum);
    sum = block_sum<LINE>(sum);
    for (i64 i = start + thread_id(); i < start + n; i += LINE) dx[i] = T(f64(y[i]) * (f64(dy[i]) - sum));
}

// A thread for each line, whose elements are inner apart.
template <class T>
DEVICE void by_threads(const T* y, const T* dy, T* dx, i64 n, i64 inner, i64 lines) {
    i64 line = block_id() * THREADS + thread_id();
    if (line >= lines) return;
    i64 start = over(line, inner) * n * inner + rest(line, inner), end = start + n * inner;
    f64 sum = 0;
    for (i64 i = start; i < end; i += inner) sum = fma(f64(y[i]), f64(dy[i]), sum);
    for (i64 i = start; i < end; i += inner) dx[i] = T(f64(y[i]) * (f64(dy[i]) - sum));
}

#define SLOPE(T, name)                                                                                                \
    KERNEL(LINE, softmax_grad_blocks_##name, const T* y, const T* dy, T* dx, i64 n) {                                 \
        by_blocks(y, dy, dx, n);                                                                                      \
    }                                                                                                                 \
    KERNEL(THREADS, softmax_grad_threads_##name, const T* y, const T* dy, T* dx, i64 n, i64 inner, i64 lines) {       \
        by_threads(y, dy, dx, n, inner, lines);                                                                       \
    }
FOR_FLOATS(SLOPE)
