// y = op(x) over some axes. Sums are in double precision and a fixed order.
#include "kernel.h"

// The list is that of WORDS in cuda.rs.
enum Reduction { SUM, MEAN, PROD, MAX, MIN };

struct Join {
    int op;
    DEVICE f64 operator()(f64 a, f64 b) const {
        switch (op) {
            case PROD: return a * b;
            case MAX: return Larger()(a, b);
            case MIN: return Smaller()(a, b);
        }
        return a + b;
    }
    DEVICE f64 start() const {
        return op == PROD ? 1 : op == MAX ? -f64(INFINITY) : op == MIN ? f64(INFINITY) : 0;
    }
};

// What is reduced to each result is cut into parts; with one part the results are whole, else they go to parts.
template <class T>
DEVICE void put(int op, f64 total, i64 result, i64 results, i64 count, T* y, f64* parts) {
    if (gridDim.y > 1) parts[blockIdx.y * results + result] = total;
    else y[result] = T(op == MEAN ? total / f64(count) : total);
}

// A thread for each result: neighbours are next to each other in x, or there is little to each.
template <class T>
DEVICE void by_threads(int op, const Space<1>& kept, const Space<1>& reduced, const T* x, T* y, f64* parts, i64 results,
                       i64 count) {
    i64 result = block_id() * THREADS + thread_id();
    if (result >= results) return;
    Join join{op};
    i64 from[1], at[1], part = div_up(count, gridDim.y), first = blockIdx.y * part;
    kept.at(result, from);
    f64 total = join.start();
    for (i64 r = first; r < least(count, first + part); r++) {
        reduced.at(r, at);
        total = join(total, f64(x[from[0] + at[0]]));
    }
    put(op, total, result, results, count, y, parts);
}

// A block for each result.
template <class T>
DEVICE void by_blocks(int op, const Space<1>& kept, const Space<1>& reduced, const T* x, T* y, f64* parts, i64 results,
                      i64 count) {
    i64 result = block_id();
    Join join{op};
    i64 from[1], at[1], part = div_up(count, gridDim.y), first = blockIdx.y * part;
    kept.at(result, from);
    f64 total = join.start();
    for (i64 r = first + thread_id(); r < least(count, first + part); r += THREADS) {
        reduced.at(r, at);
        total = join(total, f64(x[from[0] + at[0]]));
    }
    total = block_join<THREADS>(total, join);
    if (thread_id() == 0) put(op, total, result, results, count, y, parts);
}

#define REDUCE(T, name)                                                                                               \
    KERNEL(THREADS, reduce_threads_##name, int op, Space<1> kept, Space<1> reduced, const T* x, T* y, f64* parts,     \
           i64 results, i64 count) {                                                                                  \
        by_threads(op, kept, reduced, x, y, parts, results, count);                                                   \
    }                                                                                                                 \
    KERNEL(THREADS, reduce_blocks_##name, int op, Space<1> kept, Space<1> reduced, const T* x, T* y, f64* parts,      \
           i64 results, i64 count) {                                                                                  \
        by_blocks(op, kept, reduced, x, y, parts, results, count);                                                    \
    }                                                                                                                 \
    KERNEL(THREADS, reduce_finish_##name, int op, const f64* parts, T* y, i64 many, i64 results, i64 count) {         \
        i64 result = block_id() * THREADS + thread_id();                                                              \
        if (result >= results) return;                                                                                \
        Join join{op};                                                                                                \
        f64 total = join.start();                                                                                     \
        for (i64 p = 0; p < many; p++) total = join(total, parts[p * results + result]);                              \
        y[result] = T(op == MEAN ? total / f64(count) : total);                                                       \
    }
FOR_FLOATS(REDUCE)

// Integers are few (shapes and indices); they are exact before they wrap.
template <class T>
DEVICE void integers(int op, const Space<1>& kept, const Space<1>& reduced, const T* x, T* y, i64 results, i64 count) {
    i64 result = block_id() * THREADS + thread_id();
    if (result >= results) return;
    constexpr bool SIGNED = T(-1) < T(0);
    constexpr int BITS = 8 * sizeof(T);
    const T top = SIGNED ? T((u64(1) << (BITS - 1)) - 1) : T(~u64(0)), bottom = SIGNED ? T(u64(1) << (BITS - 1)) : T(0);
    i64 from[1], at[1];
    kept.at(result, from);
    __int128 total = op == PROD ? 1 : op == MAX ? __int128(bottom) : op == MIN ? __int128(top) : 0;
    for (i64 r = 0; r < count; r++) {
        reduced.at(r, at);
        __int128 v = x[from[0] + at[0]];
        if (op == PROD) total = __int128((unsigned __int128)(total) * (unsigned __int128)(v));
        else if (op == MAX) total = most(total, v);
        else if (op == MIN) total = least(total, v);
        else total += v;
    }
    if (op == MEAN) total /= count > 0 ? count : 1;
    y[result] = T(u64((unsigned __int128)(total)));
}

#define REDUCE_INTEGERS(T, name)                                                                                      \
    KERNEL(THREADS, reduce_##name, int op, Space<1> kept, Space<1> reduced, const T* x, T* y, i64 results,            \
           i64 count) {                                                                                               \
        integers(op, kept, reduced, x, y, results, count);                                                            \
    }
FOR_INTEGERS(REDUCE_INTEGERS)
