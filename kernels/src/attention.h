// What attention and its gradient share: tiles of scores.
#pragma once
#include "half.h"

// Queries and keys of a tile, elements of a row that are loaded at once, and threads of a block.
constexpr int SIDE = 32;
constexpr int CHUNK = 32;
constexpr int SQUARE = 128;

struct Shape {
    i64 heads, queries, keys, dim, value_dim, mask_strides[4];

    // Where the mask of an image begins; the image counts heads.
    DEVICE i64 mask(i64 image) const {
        return over(image, heads) * mask_strides[0] + rest(image, heads) * mask_strides[1];
    }
};

template <class T>
struct Square {
    T of[SIDE][SIDE + 1];
};

// The thread's results of a tile: two rows and four columns.
template <class T>
struct Own {
    T of[2][4];
};
DEVICE int own_row() {
    return thread_id() / 8 * 2;
}
DEVICE int own_column() {
    return thread_id() % 8 * 4;
}

// Arguments that may be in bfloat16, a bit each.
enum Argument { Q = 1, K = 2, V = 4, Y = 8, DY = 16, RESULT = 32 };

// Numbers that are read. Only if HALF they may be in bfloat16.
template <bool HALF, class T>
struct Source {
    const void* at;
    bool half;

    DEVICE T operator[](i64 i) const {
        if constexpr (HALF)
            if (half) return wide(static_cast<const bf16*>(at)[i]);
        return static_cast<const T*>(at)[i];
    }
    DEVICE Source operator+(i64 count) const {
        if (HALF && half) return {static_cast<const bf16*>(at) + count, half};
        return {static_cast<const T*>(at) + count, half};
    }
};

// Numbers that are written. Only if HALF they may be in bfloat16.
template <bool HALF, class T>
struct Output {
    void* at;
    bool half;

    DEVICE void put(i64 i, T x) const {
        if constexpr (HALF) {
            if (half) {
                static_cast<bf16*>(at)[i] = stored<bf16>(x);
                return;
            }
        }
        static_cast<T*>(at)[i] = x;
    }
};

// An operand of a product, rounded to bfloat16 if HALF.
template <bool HALF, class T>
DEVICE T operand(T x) {
    if constexpr (HALF) return wide(stored<bf16>(x));
    else return x;
}

// Products of rows of a, from row on of a_rows, with rows of b, all of `width` elements. Rows beyond the end are zero.
template <bool HALF, class T>
DEVICE Own<T> rows_by_rows(Source<HALF, T> a, i64 row, i64 a_rows, Source<HALF, T> b, i64 column, i64 b_rows, i64 width,
                           Square<T>& left, Square<T>& right) {
    Own<T> sum;
    for (int i = 0; i < 2; i++) UNROLL for (int j = 0; j < 4; j++) sum.of[i][j] = T(0);
    for (i64 first = 0; first < width; first += CHUNK) {
        for (int place = thread_id(); place < SIDE * CHUNK; place += SQUARE) {
            int r = place / CHUNK, c = place % CHUNK;
            bool inside = first + c < width;
            left.of[r][c] = inside && row + r < a_rows ? operand<HALF>(a[(row + r) * width + first + c]) : T(0);
            right.of[r][c] = inside && column + r < b_rows ? operand<HALF>(b[(column + r) * width + first + c]) : T(0);
        }
        __syncthreads();
        for (int k = 0; k < CHUNK; k++) {
            UNROLL
            for (int i = 0; i < 2; i++)
                UNROLL for (int j = 0; j < 4; j++) sum.of[i][j] =
                    fma(left.of[own_row() + i][k], right.of[own_column() + j][k], sum.of[i][j]);
        }
        __syncthreads();
    }
    return sum;
}

// sum += p @ v, or p^T @ v: 32 columns of v from `first` on, whose rows begin at `row`. Waits before and after.
template <bool HALF, bool TURNED, class T>
DEVICE void add_rows(Own<T>& sum, const Square<T>& p, Source<HALF, T> v, i64 row, i64 rows, i64 width, i64 first,
                     Square<T>& right) {
    for (int place = thread_id(); place < SIDE * CHUNK; place += SQUARE) {
        int r = place / CHUNK, c = place % CHUNK;
        right.of[r][c] = row + r < rows && first + c < width ? operand<HALF>(v[(row + r) * width + first + c]) : T(0);
    }
    __syncthreads();
    for (int k = 0; k < SIDE; k++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            T weight = operand<HALF>(TURNED ? p.of[k][own_row() + i] : p.of[own_row() + i][k]);
            UNROLL
            for (int j = 0; j < 4; j++) sum.of[i][j] = fma(weight, right.of[k][own_column() + j], sum.of[i][j]);
        }
    }
    __syncthreads();
}

// Makes entry points for the types of the arguments: make(type, name, whether operands of products are rounded).
#define FOR_ATTENTION(make) make(f32, f32, false) make(f64, f64, false) make(f32, half, true)
