// Dense products of tiles.
//
// Sums are in the type T. By tensor cores, and then T is f32, HALF multiplies operands that are rounded to bfloat16, SPLIT takes
// what that leaves as a second bfloat16 into account (three products for one, as "high" in torch.set_float32_matmul_precision), and
// TENSOR multiplies operands that are rounded to tf32, which holds each number of IEEE half precision.
#pragma once
#include "tensor.h"

// Rows and columns of a tile.
template <class T>
constexpr int TILE = sizeof(T) == 8 ? 64 : SIDE;

// Results of a thread: in each direction the places of EACH neighbours.
template <class T>
struct Sums {
    static constexpr int EACH = TILE<T> / 16;
    T of[EACH][EACH];

    // Calls f(row, column, sum) within the tile.
    template <class F>
    DEVICE void each(F f) const {
        const int thread = thread_id();
        UNROLL
        for (int i = 0; i < EACH; i++) UNROLL for (int j = 0; j < EACH; j++) f(thread / 16 * EACH + i, thread % 16 * EACH + j, of[i][j]);
    }
};

// Both operands of some terms, and what finds them; rows are padded so that neither storing nor loading meets one bank again and
// again.
template <class T, class A, class B>
struct Tables {
    static constexpr int STEP = TERMS<EXACT>;
    T a[STEP][TILE<T> + 4];
    T b[STEP][TILE<T> + 4];
    typename A::Line rows[TILE<T>];
    typename B::Line columns[TILE<T>];
    typename A::Term left[STEP];
    typename B::Term right[STEP];
};

// Neighbouring threads load neighbouring lines, or neighbouring terms.
template <int LINES, int COUNT>
DEVICE void place(int i, bool by_lines, int& line, int& term) {
    line = by_lines ? i % LINES : i / COUNT;
    term = by_lines ? i / LINES : i % COUNT;
}

// Element i of `lines` and k of `terms`, zero beyond these.
template <class O>
DEVICE auto element(const O& o, const typename O::Line* at, int i, int lines, const typename O::Term* term, int k, int terms) {
    bool there = i < lines && k < terms;
    const auto* x = o.place(at[there ? i : 0], term[there ? k : 0], there);
    return load_if(there, x);
}

// The tile of a @ b at (row, column) of m by n, over the terms of [first, end). An operand that is contiguous along its lines
// is loaded that way. Threads are THREADS, and all call it.
template <class T, class A, class B>
DEVICE Sums<T> exact_tile(int row, int column, int m, int n, int first, int end, bool a_lines, bool b_lines, const A& a,
                          const B& b) {
    using Table = Tables<T, A, B>;
    constexpr int LINES = TILE<T>, STEP = Table::STEP, EACH = LINES / 16;
    SHARED(Table, t);
    const int thread = thread_id(), rows = least(m - row, LINES), columns = least(n - column, LINES);
    if (thread < LINES) {
        if (thread < rows) t.rows[thread] = a.line(row + thread);
        if (thread < columns) t.columns[thread] = b.line(column + thread);
    }
    Sums<T> sum = {};
    for (; first < end; first += STEP) {
        const int count = least(end - first, STEP);
        if (thread < count) t.left[thread] = a.term(first + thread);
        else if (thread >= WARP && thread - WARP < count) t.right[thread - WARP] = b.term(first + thread - WARP);
        __syncthreads();
        _Pragma("unroll 4") for (int load = 0; load < LINES * STEP / THREADS; load++) {
            int i, k;
            place<LINES, STEP>(load * THREADS + thread, a_lines, i, k);
            t.a[k][i] = T(element(a, t.rows, i, rows, t.left, k, count));
            place<LINES, STEP>(load * THREADS + thread, b_lines, i, k);
            t.b[k][i] = T(element(b, t.columns, i, columns, t.right, k, count));
        }
        __syncthreads();
        UNROLL
        for (int k = 0; k < STEP; k++) {
            T left[EACH], right[EACH];
            UNROLL
            for (int e = 0; e < EACH; e++) {
                left[e] = t.a[k][thread / 16 * EACH + e];
                right[e] = t.b[k][thread % 16 * EACH + e];
            }
            UNROLL
            for (int i = 0; i < EACH; i++)
                UNROLL for (int j = 0; j < EACH; j++) sum.of[i][j] = fma(left[i], right[j], sum.of[i][j]);
        }
    }
    return sum;
}

// The tile of either kind.
template <class T, Precision P, class A, class B>
DEVICE auto product_tile(int row, int column, int m, int n, int first, int end, bool a_lines, bool b_lines, const A& a, const B& b) {
    if constexpr (P == EXACT) return exact_tile<T>(row, column, m, n, first, end, a_lines, b_lines, a, b);
    else return tensor_tile<P>(row, column, m, n, first, end, a, b);
}

// How the terms of a product are shared out, so that a product with few tiles occupies the device: blocks of the second
// direction take `share` terms each, and leave their sums in `parts`, [share, image, row, column]. Without parts there is one.
template <class T>
struct Split {
    T* parts;
    i64 share;
};

// A tile of a product: blocks of the first direction are tiles, row by row, those of the third images, which may be more.
// put(row, column, sum) takes the results if the terms are not shared out.
template <class T, Precision P, class A, class B, class F>
DEVICE void product(i64 image, int m, int n, int terms, bool a_lines, bool b_lines, const A& a, const B& b, const Split<T>& split,
                    i64 images, F put) {
    const int across = int(div_up(n, TILE<T>)), row = int(over(block_id(), across)) * TILE<T>;
    const int column = int(rest(block_id(), across)) * TILE<T>, share = int(split.share);
    const int first = split.parts ? blockIdx.y * share : 0, end = split.parts ? least(terms, first + share) : terms;
    auto sums = product_tile<T, P>(row, column, m, n, first, end, a_lines, b_lines, a, b);
    T* own = split.parts ? split.parts + (blockIdx.y * images + image) * (i64(m) * n) : nullptr;
    sums.each([&](int i, int j, T sum) {
        i += row, j += column;
        if (i >= m || j >= n) return;
        if (own) own[i64(i) * n + j] = sum;
        else put(i, j, sum);
    });
}

// The sum of an element's parts; elements are all results of the product, and parts have their number.
template <class T>
DEVICE T joined(const T* parts, i64 element, i64 elements, i64 count) {
    T sum = parts[element];
    for (i64 part = 1; part < count; part++) sum += parts[part * elements + element];
    return sum;
}

// Makes entry points of a product where no operand is a weight: make(type, name, precision).
#define FOR_PRODUCTS(make)                                                                                            \
    make(f32, f32, EXACT) make(f32, f32_split, SPLIT) make(f32, f32_tensor, TENSOR) make(f64, f64, EXACT)
