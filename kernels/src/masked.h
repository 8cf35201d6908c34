// Products of which only some places are wanted: idx holds their ascending flat positions in [rows, cols].
#pragma once
#include "product.h"

// First place at or after a position.
DEVICE i64 place_of(const u32* idx, i64 count, i64 position) {
    i64 low = 0, high = count;
    while (low < high) {
        i64 middle = (low + high) / 2;
        if (i64(idx[middle]) < position) low = middle + 1;
        else high = middle;
    }
    return low;
}

template <class T>
struct Result {
    T of[TILE][TILE + 1];
};

// A warp for each place: the sum over terms of term(row, column, k).
template <class T, class F>
DEVICE void sample_places(const u32* idx, i64 count, i64 cols, i64 terms, T* dp, F term) {
    i64 place = block_id() * (THREADS / WARP) + thread_id() / WARP;
    if (place >= count) return;
    i64 row = idx[place] / cols, column = idx[place] % cols;
    T sum = T(0);
    for (i64 k = thread_id() % WARP; k < terms; k += WARP) sum += term(row, column, k);
    sum = warp_join(sum, Add());
    if (thread_id() % WARP == 0) dp[place] = sum;
}

// A block for each tile of the whole product, of which the wanted places are kept. The tile has rows of [row, row + TILE) among
// those before `end`.
template <class T, class A, class B>
DEVICE void tile_places(const u32* idx, i64 count, i64 cols, i64 row, i64 end, i64 column, i64 terms, bool a_rows,
                        bool b_terms, T* dp, A left, B right) {
    i64 from = place_of(idx, count, row * cols), to = place_of(idx, count, least(end, row + TILE) * cols);
    if (from == to) return;
    SHARED(Result<T>, result);
    product_tile<T>(row, column, end, cols, terms, a_rows, b_terms, left, right,
                    [&](i64 i, i64 j, T sum) { result.of[i - row][j - column] = sum; });
    __syncthreads();
    for (i64 place = from + thread_id(); place < to; place += THREADS) {
        i64 i = idx[place] / cols - row, j = idx[place] % cols - column;
        if (j >= 0 && j < TILE) dp[place] = result.of[i][j];
    }
}
