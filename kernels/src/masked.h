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

// A warp for each place: the sum of products over the terms. Lines of b are counted within the image of the row.
template <class T, class A, class B>
DEVICE void sample_places(const u32* idx, i64 count, i64 cols, i64 terms, T* dp, const A& a, const B& b) {
    i64 place = block_id() * (THREADS / WARP) + thread_id() / WARP;
    if (place >= count) return;
    auto row = a.line(over(idx[place], cols));
    auto column = b.line(rest(idx[place], cols));
    T sum = T(0);
    for (i64 k = thread_id() % WARP; k < terms; k += WARP) {
        bool left = true, right = true;
        const auto* x = a.place(row, a.term(k), left);
        const auto* y = b.place(column, b.term(k), right);
        sum = fma(T(load_if(left, x)), T(load_if(right, y)), sum);
    }
    sum = warp_join(sum, Add());
    if (thread_id() % WARP == 0) dp[place] = sum;
}

// Rows of a tile that are kept at once while places are taken from them.
constexpr int BAND = 16;
template <class T>
struct Band {
    T of[BAND][TILE<T> + 1];
};

// A block for each tile of the whole product, as in `product`, of which the wanted places are kept. Rows are those of an image,
// `first_row` being its first; parts are [share, place].
template <Precision P, class T, class A, class B>
DEVICE void tile_places(const u32* idx, i64 count, i64 first_row, i64 rows, i64 cols, i64 terms, bool a_lines, bool b_lines,
                        const A& a, const B& b, T* dp, const Split<T>& split) {
    i64 across = div_up(cols, TILE<T>), row = block_id() / across * TILE<T>, column = block_id() % across * TILE<T>;
    i64 last = first_row + least(rows, row + TILE<T>);
    i64 from = place_of(idx, count, (first_row + row) * cols), to = place_of(idx, count, last * cols);
    if (from == to) return;
    i64 first = split.parts ? blockIdx.y * split.share : 0, end = split.parts ? least(terms, first + split.share) : terms;
    auto sums = product_tile<T, P>(row, column, rows, cols, first, end, a_lines, b_lines, a, b);
    T* out = split.parts ? split.parts + blockIdx.y * count : dp;
    SHARED(Band<T>, band);
    for (int base = 0; base < TILE<T>; base += BAND) {
        __syncthreads();
        sums.each([&](i64 i, i64 j, T sum) {
            if (i >= base && i < base + BAND) band.of[i - base][j] = sum;
        });
        __syncthreads();
        for (i64 place = from + thread_id(); place < to; place += THREADS) {
            i64 i = over(idx[place], cols) - first_row - row - base, j = rest(idx[place], cols) - column;
            if (i >= 0 && i < BAND && j >= 0 && j < TILE<T>) out[place] = band.of[i][j];
        }
    }
}

#define MASKED_JOIN(T, name)                                                                                          \
    KERNEL(THREADS, name, const T* parts, T* dp, i64 count, i64 shares) {                                             \
        each(count, [&](i64 e) { dp[e] = joined(parts, e, count, shares); });                                         \
    }

// Makes entry points for the types that operands are stored in: make(type of the one, of the other, of the sums, name of both).
#define FOR_ROUNDED_OPERANDS(make)                                                                                    \
    make(f32, f32, f32, f32_f32) make(f64, f64, f64, f64_f64) make(bf16, f32, f32, bf16_f32)                          \
        make(f32, bf16, f32, f32_bf16) make(bf16, bf16, f32, bf16_bf16)
// The same of products of tiles: make(type of the one, of the other, of the sums, name of both, precision). Tensor cores multiply pairs of
// bfloat16 without rounding.
#define FOR_ROUNDED_TILES(make)                                                                                    \
    ROUNDED_PRODUCTS(make, f32, f32, f32_f32) ROUNDED_PRODUCTS(make, bf16, f32, bf16_f32)                             \
        ROUNDED_PRODUCTS(make, f32, bf16, f32_bf16) make(f64, f64, f64, f64_f64, EXACT)                               \
            make(bf16, bf16, f32, bf16_bf16, HALF)
#define ROUNDED_PRODUCTS(make, A, B, name)                                                                            \
    make(A, B, f32, name, EXACT) make(A, B, f32, name##_split, SPLIT) make(A, B, f32, name##_tensor, TENSOR)
