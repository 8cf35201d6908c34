// Gradient of a matrix weight at its trained entries: dp[k] = sum over tokens of A[token, row] * B[token, column].
#include "masked.h"

// Distance between tokens and between channels, and between elements of the batch.
struct Layout {
    i64 n, token[2], channel[2], image[2];
};

template <class T>
struct Sides {
    const Layout& l;
    const T *a, *b;
    DEVICE T left(i64 row, i64 k) const {
        return a[k / l.n * l.image[0] + k % l.n * l.token[0] + row * l.channel[0]];
    }
    DEVICE T right(i64 column, i64 k) const {
        return b[k / l.n * l.image[1] + k % l.n * l.token[1] + column * l.channel[1]];
    }
};

#define MASKED(T, name)                                                                                               \
    KERNEL(THREADS, masked_matmul_grad_sample_##name, Layout layout, const T* a, const T* b, const u32* idx, T* dp,   \
           i64 count, i64 cols, i64 terms) {                                                                          \
        Sides<T> s{layout, a, b};                                                                                     \
        sample_places(idx, count, cols, terms, dp,                                                                    \
                      [&](i64 row, i64 column, i64 k) { return s.left(row, k) * s.right(column, k); });               \
    }                                                                                                                 \
    KERNEL(THREADS, masked_matmul_grad_tile_##name, Layout layout, const T* a, const T* b, const u32* idx, T* dp,     \
           i64 count, i64 rows, i64 cols, i64 terms) {                                                                \
        Sides<T> s{layout, a, b};                                                                                     \
        i64 across = div_up(cols, TILE);                                                                              \
        tile_places(idx, count, cols, block_id() / across * TILE, rows, block_id() % across * TILE, terms,            \
                    layout.channel[0] == 1, layout.token[1] == 1, dp, [&](i64 i, i64 k) { return s.left(i, k); },     \
                    [&](i64 k, i64 j) { return s.right(j, k); });                                                     \
    }
FOR_FLOATS(MASKED)
