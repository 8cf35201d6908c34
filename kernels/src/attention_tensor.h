// Attention on tensor cores: with operands in half precision, or with TF32, which has 10 bits after the point. Each of a block's four
// warps has 16 rows of its own, and all go over the other side, tile by tile. DIM is the width of rows, rounded up to what the kernels
// are made for.
#pragma once
#include "attention.h"

// Rows of a block, and rows of a tile of the other side: fewer where shared memory has no room for more.
constexpr int ROWS = 64;
template <bool TF32, int DIM>
constexpr int OTHERS = TF32 && DIM > 128 ? 16 : 32;

template <bool TF32>
using Operand = Source<!TF32, f32>;
template <bool TF32>
using Result = Output<!TF32, f32>;

// Terms in a word that tensor cores are given.
template <bool TF32>
constexpr int EACH = TF32 ? 1 : 2;
template <bool TF32>
DEVICE u32 word(f32 first, f32 second) {
    if constexpr (TF32) return tf32(first);
    else return pack(first, second);
}

// Rows of the other side in words of neighbouring elements; the padding spreads what a warp reads over all banks.
template <bool TF32, int DIM>
struct RowWords {
    u32 of[OTHERS<TF32, DIM>][DIM / EACH<TF32> + 4];
};
// WIDTH columns of the same in words of neighbouring rows.
template <bool TF32, int DIM, int WIDTH>
struct ColumnWords {
    u32 of[OTHERS<TF32, DIM> / EACH<TF32>][WIDTH + (TF32 ? 4 : 8)];
};
// Columns of the result that a block computes: of wide rows half, so that their sums fit into registers.
template <int DIM>
constexpr int PART = DIM > 80 ? DIM / 2 : DIM;

DEVICE int lane_group() {
    return thread_id() % WARP / 4;
}
DEVICE int lane_pair() {
    return thread_id() % 4;
}
// First row of this warp.
DEVICE i64 warp_row() {
    return block_id() * ROWS + thread_id() / WARP * 16;
}

// An element of rows of `width` elements; zero beyond the end.
template <bool HALF>
DEVICE f32 element(const Source<HALF, f32>& from, i64 row, i64 rows, i64 column, i64 width) {
    return row < rows && column < width ? from[row * width + column] : 0.0f;
}

template <bool TF32, int DIM>
DEVICE void load(RowWords<TF32, DIM>& to, const Operand<TF32>& from, i64 row, i64 rows, i64 width) {
    constexpr int EACH = ::EACH<TF32>, WORDS = DIM / EACH;
    _Pragma("unroll 4") for (int place = thread_id(); place < OTHERS<TF32, DIM> * WORDS; place += SQUARE) {
        int r = place / WORDS, w = place % WORDS;
        f32 first = element(from, row + r, rows, EACH * w, width);
        to.of[r][w] = word<TF32>(first, TF32 ? 0.0f : element(from, row + r, rows, EACH * w + 1, width));
    }
}
// Columns from `first` on.
template <bool TF32, int DIM, int WIDTH>
DEVICE void load(ColumnWords<TF32, DIM, WIDTH>& to, const Operand<TF32>& from, i64 row, i64 rows, i64 first, i64 width) {
    constexpr int EACH = ::EACH<TF32>;
    _Pragma("unroll 4") for (int place = thread_id(); place < OTHERS<TF32, DIM> / EACH * WIDTH; place += SQUARE) {
        int r = place / WIDTH, column = place % WIDTH;
        f32 upper = element(from, row + EACH * r, rows, first + column, width);
        to.of[r][column] = word<TF32>(upper, TF32 ? 0.0f : element(from, row + EACH * r + 1, rows, first + column, width));
    }
}

// Eight words of the rows of this warp, as the left operand of multiply_add.
template <bool TF32>
DEVICE void load(u32 (&to)[4], const Operand<TF32>& from, int k, i64 rows, i64 width) {
    UNROLL
    for (int e = 0; e < 4; e++) {
        i64 row = warp_row() + lane_group() + e % 2 * 8, column = (k * 8 + lane_pair() + e / 2 * 4) * EACH<TF32>;
        f32 first = element(from, row, rows, column, width);
        to[e] = word<TF32>(first, TF32 ? 0.0f : element(from, row, rows, column + 1, width));
    }
}

// All words of those rows.
template <bool TF32, int DIM>
struct OwnRows {
    u32 of[DIM / EACH<TF32> / 8][4];
};
template <bool TF32, int DIM>
DEVICE void load(OwnRows<TF32, DIM>& to, const Operand<TF32>& from, i64 rows, i64 width) {
    UNROLL
    for (int k = 0; k < DIM / EACH<TF32> / 8; k++) load<TF32>(to.of[k], from, k, rows, width);
}

// The warp's results against a tile of N rows: of each eight columns, those of multiply_add.
template <int N>
struct Strip {
    f32 of[N / 8][4];

    // Row and column of a result within the warp's rows and the tile.
    DEVICE static int row(int e) {
        return lane_group() + e / 2 * 8;
    }
    DEVICE static int column(int j, int e) {
        return j * 8 + lane_pair() * 2 + e % 2;
    }
};

template <bool TF32, int DIM>
DEVICE void add_words(Strip<OTHERS<TF32, DIM>>& s, int k, const u32 (&left)[4], const RowWords<TF32, DIM>& other) {
    UNROLL
    for (int j = 0; j < OTHERS<TF32, DIM> / 8; j++) {
        const u32* row = other.of[j * 8 + lane_group()] + k * 8 + lane_pair();
        u32 right[2] = {row[0], row[4]};
        multiply_add<TF32>(s.of[j], left, right);
    }
}
template <bool TF32, int DIM>
DEVICE auto products(const OwnRows<TF32, DIM>& own, const RowWords<TF32, DIM>& other) {
    Strip<OTHERS<TF32, DIM>> s = {};
    UNROLL
    for (int k = 0; k < DIM / EACH<TF32> / 8; k++) add_words(s, k, own.of[k], other);
    return s;
}
// The same for rows of this warp that are not kept.
template <bool TF32, int DIM>
DEVICE auto products(const Operand<TF32>& from, i64 rows, i64 width, const RowWords<TF32, DIM>& other) {
    Strip<OTHERS<TF32, DIM>> s = {};
    _Pragma("unroll 2") for (int k = 0; k < DIM / EACH<TF32> / 8; k++) {
        u32 left[4];
        load<TF32>(left, from, k, rows, width);
        add_words(s, k, left, other);
    }
    return s;
}

// Sums of a warp's rows: of each eight columns, those of multiply_add.
template <int WIDTH>
struct RowSums {
    f32 of[WIDTH / 8][4];
};

// A lane has two neighbouring columns of p, which are terms here. With TF32 they are the words `lane_pair` and, because the order of
// terms is free, that 4 further.
template <bool TF32, int DIM, int WIDTH>
DEVICE void add_products(RowSums<WIDTH>& sum, const Strip<OTHERS<TF32, DIM>>& p, const ColumnWords<TF32, DIM, WIDTH>& other) {
    UNROLL
    for (int k = 0; k < OTHERS<TF32, DIM> / (8 * EACH<TF32>); k++) {
        u32 left[4];
        UNROLL
        for (int e = 0; e < 4; e++) {
            const f32* two = p.of[EACH<TF32> * k + (TF32 ? 0 : e / 2)] + e % 2 * 2;
            left[e] = TF32 ? word<TF32>(two[e / 2], 0) : word<TF32>(two[0], two[1]);
        }
        UNROLL
        for (int j = 0; j < WIDTH / 8; j++) {
            u32 right[2];
            UNROLL
            for (int e = 0; e < 2; e++) {
                int row = TF32 ? 2 * lane_pair() + e : lane_pair() + 4 * e;
                right[e] = other.of[k * 8 + row][j * 8 + lane_group()];
            }
            multiply_add<TF32>(sum.of[j], left, right);
        }
    }
}

// Writes the sums, from the element `at` and the column `first` on, times a factor for each of the two halves of the rows.
template <bool HALF, int WIDTH>
DEVICE void put(const Output<HALF, f32>& to, i64 at, const RowSums<WIDTH>& sum, i64 rows, i64 first, i64 width,
                const f32 (&factor)[2]) {
    UNROLL
    for (int j = 0; j < WIDTH / 8; j++) {
        UNROLL
        for (int e = 0; e < 4; e++) {
            i64 row = warp_row() + Strip<8>::row(e), column = first + Strip<8>::column(j, e);
            if (row < rows && column < width) to.put(at + row * width + column, sum.of[j][e] * factor[e / 2]);
        }
    }
}

// Makes entry points for widths: make(DIM, name, whether operands are in TF32).
#define FOR_WIDTHS(make)                                                                                              \
    make(48, half_48, false) make(64, half_64, false) make(80, half_80, false) make(128, half_128, false)             \
        make(160, half_160, false) make(48, tensor_48, true) make(64, tensor_64, true) make(80, tensor_80, true)      \
            make(128, tensor_128, true) make(160, tensor_160, true)
