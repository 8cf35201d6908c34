// y = exp(x) / sum(exp(x)) along the middle of [outer, n, inner].
#include "kernel.h"

// What is subtracted from a line whose largest element is high. Without any score the exponentials are zero whatever is
// subtracted, if it is finite.
template <class T>
DEVICE T shift(T high) {
    return high == lowest<T>() ? T(0) : high;
}
template <class T>
DEVICE T factor(f64 sum) {
    return T(sum == 0 ? 0 : 1 / sum);
}

constexpr int LINE = 128;

// A block for each line, whose elements lie side by side.
template <class T>
DEVICE void by_blocks(const T* x, T* y, i64 n) {
    x += block_id() * n;
    y += block_id() * n;
    T high = lowest<T>();
    for (i64 i = thread_id(); i < n; i += LINE) high = Larger()(high, x[i]);
    high = shift(block_join<LINE>(high, Larger()));
    f64 sum = 0;
    for (i64 i = thread_id(); i < n; i += LINE) {
        T e = exp(x[i] - high);
        y[i] = e;
        sum += f64(e);
    }
    T scale = factor<T>(block_sum<LINE>(sum));
    for (i64 i = thread_id(); i < n; i += LINE) y[i] *= scale;
}

// A thread for each line, whose elements are inner apart.
template <class T>
DEVICE void by_threads(const T* x, T* y, i64 n, i64 inner, i64 lines) {
    i64 line = block_id() * THREADS + thread_id();
    if (line >= lines) return;
    i64 start = over(line, inner) * n * inner + rest(line, inner);
    T high = lowest<T>();
    for (i64 i = 0; i < n; i++) high = Larger()(high, x[start + i * inner]);
    high = shift(high);
    f64 sum = 0;
    for (i64 i = 0; i < n; i++) {
        T e = exp(x[start + i * inner] - high);
        y[start + i * inner] = e;
        sum += f64(e);
    }
    T scale = factor<T>(sum);
    for (i64 i = 0; i < n; i++) y[start + i * inner] *= scale;
}

#define SOFTMAX(T, name)                                                                                              \
    KERNEL(LINE, softmax_blocks_##name, const T* x, T* y, i64 n) {                                                    \
        by_blocks(x, y, n);                                                                                           \
    }                                                                                                                 \
    KERNEL(THREADS, softmax_threads_##name, const T* x, T* y, i64 n, i64 inner, i64 lines) {                          \
        by_threads(x, y, n, inner, lines);                                                                            \
    }
FOR_FLOATS(SOFTMAX)
