// Dense products of tiles, in the precision of the operands. What is multiplied is given by functions, so that a convolution
// is a product whose operands are read where they lie.
#pragma once
#include "kernel.h"

// Rows and columns of a tile, terms that are loaded at once, and results of a thread in each direction.
constexpr int TILE = 64;
constexpr int TERMS = 16;
constexpr int EACH = 4;

template <class T>
struct Operands {
    // Rows are padded so that neither storing nor loading meets one bank again and again.
    T a[TERMS][TILE + 4];
    T b[TERMS][TILE + 4];
};

// The tile of a @ b at (row, column): left(i, k) and right(k, j) are the operands' elements, already checked against their
// extents; put(i, j, sum) takes the results within m rows and n columns. Threads are 16 by 16. A left operand that is
// contiguous along its rows, and a right one along its terms, are loaded that way.
template <class T, class A, class B, class P>
DEVICE void product_tile(i64 row, i64 column, i64 m, i64 n, i64 terms, bool a_rows, bool b_terms, A left, B right, P put) {
    SHARED(Operands<T>, s);
    const int thread = thread_id(), x = thread % 16, y = thread / 16;
    T sum[EACH][EACH];
    UNROLL
    for (int i = 0; i < EACH; i++) UNROLL for (int j = 0; j < EACH; j++) sum[i][j] = T(0);
    for (i64 first = 0; first < terms; first += TERMS) {
        UNROLL
        for (int load = 0; load < TILE * TERMS / THREADS; load++) {
            int place = load * THREADS + thread;
            int i = a_rows ? place % TILE : place / TERMS, k = a_rows ? place / TILE : place % TERMS;
            s.a[k][i] = row + i < m && first + k < terms ? left(row + i, first + k) : T(0);
            int j = b_terms ? place / TERMS : place % TILE;
            k = b_terms ? place % TERMS : place / TILE;
            s.b[k][j] = column + j < n && first + k < terms ? right(first + k, column + j) : T(0);
        }
        __syncthreads();
        UNROLL
        for (int k = 0; k < TERMS; k++) {
            T a[EACH], b[EACH];
            UNROLL
            for (int e = 0; e < EACH; e++) {
                a[e] = s.a[k][y * EACH + e];
                b[e] = s.b[k][x * EACH + e];
            }
            UNROLL
            for (int i = 0; i < EACH; i++) UNROLL for (int j = 0; j < EACH; j++) sum[i][j] = fma(a[i], b[j], sum[i][j]);
        }
        __syncthreads();
    }
    UNROLL
    for (int i = 0; i < EACH; i++) {
        UNROLL
        for (int j = 0; j < EACH; j++) {
            i64 r = row + y * EACH + i, c = column + x * EACH + j;
            if (r < m && c < n) put(r, c, sum[i][j]);
        }
    }
}
