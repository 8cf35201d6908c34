// Tiles of products by tensor cores. While they multiply the terms of one step, a thread has its share of the next step's under way:
// it keeps them in registers until the tile of that step, one of two in shared memory, is free.
#pragma once
#include "operand.h"

enum Precision { EXACT, SPLIT, HALF, TENSOR };

// Terms of a step, and the words in which the tensor cores are given those of a line.
template <Precision P>
constexpr int TERMS = P == HALF ? 32 : 16;
template <Precision P>
constexpr int WORDS = P == TENSOR ? TERMS<P> : TERMS<P> / 2;
// Rows and columns of a tile.
constexpr int SIDE = 128;

// Rounded terms: pairs of neighbours, and with SPLIT what rounding left of them; with TENSOR single ones. Quads of words are
// exchanged within a line, so that the same quad of eight lines is in different banks.
template <Precision P>
struct Rounded {
    static constexpr int PARTS = P == SPLIT ? 2 : 1, QUADS = WORDS<P> / 4;
    Quad of[PARTS][SIDE][QUADS];

    DEVICE Quad& quad(int part, int line, int q) {
        return of[part][line][q ^ line % 8 / (8 / QUADS)];
    }
    DEVICE u32& word(int part, int line, int w) {
        return quad(part, line, w / 4).of[w % 4];
    }
};

// What a thread loads of an operand, RUN terms at a time, of which it has TURNS in each step.
template <Precision P, class O>
struct Loader {
    using S = typename O::Element;
    static constexpr int TURNS = SIDE * TERMS<P> / THREADS / RUN, ACROSS = TERMS<P> / RUN, PAIRS = TERMS<P> / 2;

    // What finds the elements of a tile, the terms of two steps.
    struct Table {
        typename O::Line lines[SIDE];
        typename O::Term terms[2][TERMS<P>];
    };

    const O& operand;
    Table& table;
    const Way way;
    // Of the first turn.
    int own_line, own_term;
    // An element in each word, or where runs of terms are loaded whole, the words of memory.
    u32 raw[RUN];

    DEVICE Loader(const O& operand, Table& table, int first, int all, int terms)
        : operand(operand), table(table), way(way_of(operand, terms)) {
        at(thread_id());
        // Beyond the end, the last line again: nobody takes the sums.
        if (thread_id() < SIDE) table.lines[thread_id()] = operand.line(least(first + thread_id(), all - 1));
    }

    DEVICE static Way way_of(const O& operand, int terms) {
        if constexpr (O::FLAT)
            if (terms % RUN == 0 && operand.runs()) return RUNS;
        return O::WAY;
    }

    // Takes the place of a thread.
    DEVICE void at(int thread) {
        own_line = way == BY_LINES ? thread % SIDE : thread / (way == RUNS ? ACROSS : PAIRS);
        own_term = way == BY_LINES ? thread / SIDE * TURNS * RUN : way == RUNS ? thread % ACROSS * RUN : thread % PAIRS * 2;
    }

    // Looks up the terms of a step of `count` from `first` on, by the thread that is k of those who do. What is not there has what is.
    DEVICE void find(int step, int first, int count, int k) {
        if (count > 0 && k >= 0 && k < TERMS<P>) table.terms[step % 2][k] = operand.term(first + least(k, count - 1));
    }

    // The line and the first term of a turn, if its terms are of one line. Otherwise they are pairs, of four lines.
    DEVICE int line(int turn) const {
        return own_line + (way == BY_LINES ? 0 : turn * (THREADS / ACROSS));
    }
    DEVICE int term(int turn) const {
        return own_term + (way == BY_LINES ? turn * RUN : 0);
    }
    DEVICE int line_of_pair(int turn, int pair) const {
        return own_line + (turn * (RUN / 2) + pair) * (THREADS / PAIRS);
    }

    DEVICE u32 load(const typename O::Line& line, const typename O::Term* terms, int k, bool wanted) const {
        const S* at = operand.place(line, terms[k], wanted);
        return bits_if(wanted, at);
    }

    // Begins to load its terms of a turn of a step, of which there are `count` terms.
    DEVICE void fetch(int step, int count, int turn) {
        const typename O::Term* terms = table.terms[step % 2];
        if (way == BY_TERMS) {
            UNROLL
            for (int p = 0; p < RUN / 2; p++) {
                const int line = line_of_pair(turn, p);
                UNROLL
                for (int e = 0; e < 2; e++)
                    raw[2 * p + e] = load(table.lines[line], terms, own_term + e, own_term + e < count);
            }
            return;
        }
        const typename O::Line at = table.lines[line(turn)];
        const int first = term(turn);
        if (way == BY_LINES) {
            UNROLL
            for (int e = 0; e < RUN; e++) raw[e] = load(at, terms, first + e, first + e < count);
            return;
        }
        if constexpr (O::FLAT) {
            UNROLL
            for (int q = 0; q < RUN * int(sizeof(S)) / 16; q++) {
                const Quad quad = load_quad_if(first < count, at + terms[first] + q * 16 / sizeof(S));
                UNROLL
                for (int e = 0; e < 4; e++) raw[q * 4 + e] = quad.of[e];
            }
        }
    }

    DEVICE S element(int e) const {
        if (sizeof(S) == 2 && way == RUNS) return of_raw<S>(raw[e / 2] >> e % 2 * 16);
        return of_raw<S>(raw[e]);
    }

    // The words of two terms, of each part.
    DEVICE static void round(u32 (&to)[2][2], S low, S high) {
        if constexpr (P == TENSOR) {
            to[0][0] = tf32(wide(low)), to[0][1] = tf32(wide(high));
        } else {
            const u32 both = to[0][0] = paired(low, high);
            if constexpr (P == SPLIT) to[1][0] = pack(wide(low) - low_half(both), wide(high) - high_half(both));
        }
    }

    // Stores what was loaded in a turn, rounded.
    DEVICE void put(Rounded<P>& to, int turn) const {
        constexpr int PARTS = Rounded<P>::PARTS, OF_PAIR = P == TENSOR ? 2 : 1;
        Quad quads[PARTS][OF_PAIR];
        UNROLL
        for (int p = 0; p < RUN / 2; p++) {
            u32 words[2][2];
            round(words, element(2 * p), element(2 * p + 1));
            UNROLL
            for (int part = 0; part < PARTS; part++) {
                UNROLL
                for (int w = 0; w < OF_PAIR; w++) {
                    if (way == BY_TERMS) to.word(part, line_of_pair(turn, p), own_term / 2 * OF_PAIR + w) = words[part][w];
                    else quads[part][(p * OF_PAIR + w) / 4].of[(p * OF_PAIR + w) % 4] = words[part][w];
                }
            }
        }
        if (way == BY_TERMS) return;
        UNROLL
        for (int part = 0; part < PARTS; part++)
            UNROLL for (int q = 0; q < OF_PAIR; q++) to.quad(part, line(turn), term(turn) / RUN * OF_PAIR + q) = quads[part][q];
    }
};

// Results of a thread.
struct TensorSums {
    f32 of[4][4][4];

    // Calls f(row, column, sum) within the tile. Warps are two by four, each with 64 rows and 32 columns.
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

    // Adds the products of eight words of each line from `word` on, for rows i to `end` of these.
    template <Precision P>
    DEVICE void add(Rounded<P>& a, Rounded<P>& b, int thread, int word, int i, int end) {
        constexpr int PARTS = Rounded<P>::PARTS;
        const int warp = thread / WARP, lane = thread % WARP;
        u32 right[PARTS][4][2];
        UNROLL
        for (int part = 0; part < PARTS; part++) {
            UNROLL
            for (int j = 0; j < 4; j += 2) {
                u32 both[4];
                load_matrices(both, b.quad(part, warp % 4 * 32 + j * 8 + lane / 16 * 8 + lane % 8, word / 4 + lane / 8 % 2));
                UNROLL
                for (int e = 0; e < 4; e++) right[part][j + e / 2][e % 2] = both[e];
            }
        }
        UNROLL
        for (; i < end; i++) {
            u32 left[PARTS][4];
            UNROLL
            for (int part = 0; part < PARTS; part++)
                load_matrices(left[part], a.quad(part, warp / 4 * 64 + i * 16 + lane % 16, word / 4 + lane / 16));
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
                    for (int e = 0; e < 4; e++) of[i][j][e] += few[e];
                } else multiply_add<P == TENSOR>(of[i][j], left[0], right[0][j]);
            }
        }
    }
};

// The tile of a @ b at (row, column) of m by n, over the terms of [first, end), by THREADS threads, which all call it.
template <Precision P, class A, class B>
DEVICE TensorSums tensor_tile(int row, int column, int m, int n, int first, int end, const A& a, const B& b) {
    using Left = Loader<P, A>;
    using Right = Loader<P, B>;
    struct Memory {
        Rounded<P> a[2], b[2];
        typename Left::Table left;
        typename Right::Table right;
    };
    SHARED(Memory, t);
    Left left(a, t.left, row, m, end - first);
    Right right(b, t.right, column, n, end - first);
    TensorSums sums = {};
    int thread = thread_id();
    const auto find = [&](int step, int first) {
        left.find(step, first, end - first, thread);
        right.find(step, first, end - first, thread - WARP);
    };
    find(0, first);
    __syncthreads();
    UNROLL
    for (int turn = 0; turn < Left::TURNS; turn++) {
        left.fetch(0, end - first, turn);
        right.fetch(0, end - first, turn);
        left.put(t.a[0], turn);
        right.put(t.b[0], turn);
    }
    find(1, first + TERMS<P>);
    __syncthreads();
    int next = end - first;
    for (int step = 0; next > 0; step++) {
        const int own = step % 2, other = 1 - own;
        next -= TERMS<P>;
        // Keeps a compiler from computing all addresses before the steps, for which there are no registers.
#ifdef __CUDACC_RTC__
        asm volatile("" : "+r"(thread));
#endif
        left.at(thread);
        right.at(thread);
        // Turn by turn, so that few registers are under way: a turn of each operand for each half of the products.
        constexpr int PARTS = 2 * Left::TURNS, ROWS = 4 * WORDS<P> / 8 / PARTS;
        UNROLL
        for (int part = 0; part < PARTS; part++) {
            const int turn = part / 2, row = part * ROWS;
            if (next > 0) {
                if (part % 2 == 0) left.fetch(step + 1, next, turn);
                else right.fetch(step + 1, next, turn);
            }
            sums.add(t.a[own], t.b[own], thread, row / 4 * 8, row % 4, row % 4 + ROWS);
            if (next > 0) {
                if (part % 2 == 0) left.put(t.a[other], turn);
                else right.put(t.b[other], turn);
            }
        }
        find(step + 2, end - next + TERMS<P>);
        __syncthreads();
    }
    return sums;
}
