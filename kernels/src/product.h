// Dense products of tiles. What is multiplied is given by two operands, so that a convolution is a product whose operands are
// read where they lie. An operand has
//
//   Line line(i64 i)     what finds the elements of its row or column i,
//   Term term(i64 k)     what finds those of the term k,
//   T load(Line, Term)   the element.
//
// Sums are in the type T. By tensor cores, and then T is f32, HALF multiplies operands that are rounded to bfloat16, SPLIT takes
// what that leaves as a second bfloat16 into account (three products for one, as "high" in torch.set_float32_matmul_precision), and
// TENSOR multiplies operands that are rounded to tf32, which holds each number of IEEE half precision.
#pragma once
#include "half.h"

enum Precision { EXACT, SPLIT, HALF, TENSOR };

// Rows and columns of a tile, and terms that are loaded at once.
template <class T>
constexpr int TILE = sizeof(T) == 8 ? 64 : 128;
template <Precision P>
constexpr int TERMS = P == HALF ? 32 : 16;

// An operand in memory.
template <class S>
struct Plain {
    const S* at;
    i64 line_stride, term_stride;

    using Line = i64;
    using Term = i64;
    DEVICE Line line(i64 i) const {
        return i * line_stride;
    }
    DEVICE Term term(i64 k) const {
        return k * term_stride;
    }
    DEVICE auto load(Line line, Term term) const {
        return wide(at[line + term]);
    }
};

// Words in which the tensor cores are given the terms of a line.
template <Precision P>
constexpr int WORDS = P == TENSOR ? TERMS<P> : TERMS<P> / 2;

// Results of a thread: in each direction the places of EACH neighbours, or of what the tensor cores give it.
template <class T, Precision P>
struct Sums {
    static constexpr int SIDE = TILE<T>, EACH = SIDE / 16;
    T of[EACH][EACH];

    // Calls f(row, column, sum) within the tile.
    template <class F>
    DEVICE void each(F f) const {
        const int thread = thread_id();
        UNROLL
        for (int i = 0; i < EACH; i++) UNROLL for (int j = 0; j < EACH; j++) f(thread / 16 * EACH + i, thread % 16 * EACH + j, of[i][j]);
    }
};
// Of tensor cores.
struct TensorSums {
    f32 of[4][4][4];

    // Warps are two by four, each with 64 rows and 32 columns.
    template <class F>
    DEVICE void each(F f) const {
        const int warp = thread_id() / WARP, lane = thread_id() % WARP;
        UNROLL
        for (int i = 0; i < 4; i++) {
            UNROLL
            for (int j = 0; j < 4; j++) {
                UNROLL
                for (int e = 0; e < 4; e++)
                    f(warp / 4 * 64 + i * 16 + lane / 4 + e / 2 * 8, warp % 4 * 32 + j * 8 + lane % 4 * 2 + e % 2, of[i][j][e]);
            }
        }
    }
};

template <>
struct Sums<f32, SPLIT> : TensorSums {};
template <>
struct Sums<f32, HALF> : TensorSums {};
template <>
struct Sums<f32, TENSOR> : TensorSums {};

// Both operands of some terms; rows are padded so that neither storing nor loading meets one bank again and again.
template <class T, Precision P>
struct Operands {
    T a[TERMS<P>][TILE<T> + 4];
    T b[TERMS<P>][TILE<T> + 4];
};
// Pairs of neighbouring terms, and with SPLIT what rounding left of them; with TENSOR single terms.
template <Precision P>
struct Pairs {
    static constexpr int PARTS = P == SPLIT ? 2 : 1;
    u32 a[PARTS][TILE<f32>][WORDS<P> + 4];
    u32 b[PARTS][TILE<f32>][WORDS<P> + 4];
};
template <>
struct Operands<f32, SPLIT> : Pairs<SPLIT> {};
template <>
struct Operands<f32, HALF> : Pairs<HALF> {};
template <>
struct Operands<f32, TENSOR> : Pairs<TENSOR> {};

template <class T, class A, class B, Precision P>
struct Tables {
    Operands<T, P> s;
    typename A::Line rows[TILE<T>];
    typename B::Line columns[TILE<T>];
    typename A::Term left[TERMS<P>];
    typename B::Term right[TERMS<P>];
};

// Neighbouring threads load neighbouring lines, or neighbouring terms.
template <int SIDE, int COUNT>
DEVICE void place(int i, bool by_lines, int& line, int& term) {
    line = by_lines ? i % SIDE : i / COUNT;
    term = by_lines ? i / SIDE : i % COUNT;
}

// The terms of a word of a line, zero beyond the end: to[part][line][word], rounded, and in the second part what that leaves.
template <Precision P, class O, class R>
DEVICE void load_word(R& to, const O& operand, const typename O::Line* lines, const typename O::Term* terms, int i, int k,
                      int line_count, int term_count) {
    constexpr int PARTS = Pairs<P>::PARTS;
    if constexpr (P == TENSOR) {
        to[0][i][k] = tf32(i < line_count && k < term_count ? operand.load(lines[i], terms[k]) : 0.0f);
        return;
    }
    f32 low = i < line_count && 2 * k < term_count ? operand.load(lines[i], terms[2 * k]) : 0.0f;
    f32 high = i < line_count && 2 * k + 1 < term_count ? operand.load(lines[i], terms[2 * k + 1]) : 0.0f;
    u32 pair = pack(low, high);
    to[0][i][k] = pair;
    if constexpr (PARTS == 2) to[PARTS - 1][i][k] = pack(low - low_half(pair), high - high_half(pair));
}

// The tile of a @ b at (row, column) of m by n, over the terms of [first, end). An operand that is contiguous along its lines
// is loaded that way. Threads are THREADS, and all call it.
template <class T, Precision P, class A, class B>
DEVICE Sums<T, P> product_tile(i64 row, i64 column, i64 m, i64 n, i64 first, i64 end, bool a_lines, bool b_lines, const A& a,
                                  const B& b) {
    using Table = Tables<T, A, B, P>;
    constexpr int SIDE = TILE<T>, STEP = TERMS<P>;
    SHARED(Table, t);
    const int thread = thread_id(), rows = int(least(m - row, i64(SIDE))), columns = int(least(n - column, i64(SIDE)));
    if (thread < SIDE) {
        if (thread < rows) t.rows[thread] = a.line(row + thread);
        if (thread < columns) t.columns[thread] = b.line(column + thread);
    }
    Sums<T, P> sum = {};
    for (; first < end; first += STEP) {
        const int count = int(least(end - first, i64(STEP)));
        if (thread < count) t.left[thread] = a.term(first + thread);
        else if (thread >= WARP && thread - WARP < count) t.right[thread - WARP] = b.term(first + thread - WARP);
        __syncthreads();
        if constexpr (P != EXACT) {
            constexpr int PARTS = Pairs<P>::PARTS;
            _Pragma("unroll 2") for (int load = 0; load < SIDE * WORDS<P> / THREADS; load++) {
                int i, k;
                place<SIDE, WORDS<P>>(load * THREADS + thread, a_lines, i, k);
                load_word<P>(t.s.a, a, t.rows, t.left, i, k, rows, count);
                place<SIDE, WORDS<P>>(load * THREADS + thread, b_lines, i, k);
                load_word<P>(t.s.b, b, t.columns, t.right, i, k, columns, count);
            }
            __syncthreads();
            const int warp = thread / WARP, group = thread % WARP / 4, lane = thread % 4;
            UNROLL
            for (int k = 0; k < WORDS<P>; k += 8) {
                u32 right[PARTS][4][2];
                UNROLL
                for (int part = 0; part < PARTS; part++) {
                    UNROLL
                    for (int j = 0; j < 4; j++) {
                        UNROLL
                        for (int e = 0; e < 2; e++)
                            right[part][j][e] = t.s.b[part][warp % 4 * 32 + j * 8 + group][k + lane + 4 * e];
                    }
                }
                UNROLL
                for (int i = 0; i < 4; i++) {
                    u32 left[PARTS][4];
                    UNROLL
                    for (int part = 0; part < PARTS; part++) {
                        UNROLL
                        for (int e = 0; e < 4; e++)
                            left[part][e] = t.s.a[part][warp / 4 * 64 + i * 16 + group + e % 2 * 8][k + lane + e / 2 * 4];
                    }
                    UNROLL
                    for (int j = 0; j < 4; j++) {
                        if constexpr (PARTS == 2) {
                            // Tensor cores may cut off what a sum has no place for, which over many terms would weigh more than
                            // what two bfloat16 leave of an operand. So they sum up few terms, the small products first.
                            f32 few[4] = {};
                            multiply_add(few, left[PARTS - 1], right[0][j]);
                            multiply_add(few, left[0], right[PARTS - 1][j]);
                            multiply_add(few, left[0], right[0][j]);
                            UNROLL
                            for (int e = 0; e < 4; e++) sum.of[i][j][e] += few[e];
                        } else multiply_add<P == TENSOR>(sum.of[i][j], left[0], right[0][j]);
                    }
                }
            }
        } else {
            constexpr int EACH = SIDE / 16;
            _Pragma("unroll 4") for (int load = 0; load < SIDE * STEP / THREADS; load++) {
                int i, k;
                place<SIDE, STEP>(load * THREADS + thread, a_lines, i, k);
                t.s.a[k][i] = i < rows && k < count ? T(a.load(t.rows[i], t.left[k])) : T(0);
                place<SIDE, STEP>(load * THREADS + thread, b_lines, i, k);
                t.s.b[k][i] = i < columns && k < count ? T(b.load(t.columns[i], t.right[k])) : T(0);
            }
            __syncthreads();
            UNROLL
            for (int k = 0; k < STEP; k++) {
                T left[EACH], right[EACH];
                UNROLL
                for (int e = 0; e < EACH; e++) {
                    left[e] = t.s.a[k][thread / 16 * EACH + e];
                    right[e] = t.s.b[k][thread % 16 * EACH + e];
                }
                UNROLL
                for (int i = 0; i < EACH; i++)
                    UNROLL for (int j = 0; j < EACH; j++) sum.of[i][j] = fma(left[i], right[j], sum.of[i][j]);
            }
        }
    }
    return sum;
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
DEVICE void product(i64 image, i64 m, i64 n, i64 terms, bool a_lines, bool b_lines, const A& a, const B& b, const Split<T>& split,
                    i64 images, F put) {
    i64 across = div_up(n, TILE<T>), row = block_id() / across * TILE<T>, column = block_id() % across * TILE<T>;
    i64 first = split.parts ? blockIdx.y * split.share : 0, end = split.parts ? least(terms, first + split.share) : terms;
    auto sums = product_tile<T, P>(row, column, m, n, first, end, a_lines, b_lines, a, b);
    T* own = split.parts ? split.parts + (blockIdx.y * images + image) * m * n : nullptr;
    sums.each([&](i64 i, i64 j, T sum) {
        i += row, j += column;
        if (i >= m || j >= n) return;
        if (own) own[i * n + j] = sum;
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
