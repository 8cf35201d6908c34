// Attention with operands in half precision, on tensor cores. Each of a block's four warps has 16 rows of its own, and all go over
// the other side, tile by tile. DIM is the width of rows, rounded up to what the kernels are made for.
#pragma once
#include "attention.h"

// Rows of a block, and rows of a tile of the other side.
constexpr int ROWS = 64;
constexpr int OTHERS = 32;

using Operand = Source<true, f32>;
using Result = Output<true, f32>;

// Rows of the other side as pairs of neighbouring elements; the padding spreads what a warp reads over all banks.
template <int DIM>
struct RowPairs {
    u32 of[OTHERS][DIM / 2 + 4];
};
// The same as pairs of neighbouring rows.
template <int DIM>
struct ColumnPairs {
    u32 of[OTHERS / 2][DIM + 8];
};
// Sixteen rows of a warp as the left operand of multiply_add.
template <int DIM>
struct Fragments {
    u32 of[DIM / 16][4];
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
DEVICE f32 element(const Operand& from, i64 row, i64 rows, i64 column, i64 width) {
    return row < rows && column < width ? from[row * width + column] : 0.0f;
}

template <int DIM>
DEVICE void load(RowPairs<DIM>& to, const Operand& from, i64 row, i64 rows, i64 width) {
    _Pragma("unroll 4") for (int place = thread_id(); place < OTHERS * DIM / 2; place += SQUARE) {
        int r = place / (DIM / 2), pair = place % (DIM / 2);
        to.of[r][pair] =
            pack(element(from, row + r, rows, 2 * pair, width), element(from, row + r, rows, 2 * pair + 1, width));
    }
}
// Columns from `first` on.
template <int DIM>
DEVICE void load(ColumnPairs<DIM>& to, const Operand& from, i64 row, i64 rows, i64 first, i64 width) {
    _Pragma("unroll 4") for (int place = thread_id(); place < OTHERS / 2 * DIM; place += SQUARE) {
        int pair = place / DIM, column = place % DIM;
        f32 upper = element(from, row + 2 * pair, rows, first + column, width);
        to.of[pair][column] = pack(upper, element(from, row + 2 * pair + 1, rows, first + column, width));
    }
}
// The rows of this warp.
template <int DIM>
DEVICE void load(Fragments<DIM>& to, const Operand& from, i64 rows, i64 width) {
    UNROLL
    for (int k = 0; k < DIM / 16; k++) {
        UNROLL
        for (int e = 0; e < 4; e++) {
            i64 row = warp_row() + lane_group() + e % 2 * 8, column = k * 16 + lane_pair() * 2 + e / 2 * 8;
            to.of[k][e] = pack(element(from, row, rows, column, width), element(from, row, rows, column + 1, width));
        }
    }
}

// The warp's results against a tile: of each eight columns, those of multiply_add.
struct Strip {
    f32 of[OTHERS / 8][4];

    // Row and column of a result within the warp's rows and the tile.
    DEVICE static int row(int e) {
        return lane_group() + e / 2 * 8;
    }
    DEVICE static int column(int j, int e) {
        return j * 8 + lane_pair() * 2 + e % 2;
    }
};

template <int DIM>
DEVICE Strip products(const Fragments<DIM>& own, const RowPairs<DIM>& other) {
    Strip s = {};
    UNROLL
    for (int k = 0; k < DIM / 16; k++) {
        UNROLL
        for (int j = 0; j < OTHERS / 8; j++) {
            const u32* row = other.of[j * 8 + lane_group()] + k * 8 + lane_pair();
            u32 right[2] = {row[0], row[4]};
            multiply_add(s.of[j], own.of[k], right);
        }
    }
    return s;
}

// Sums of a warp's rows: of each eight columns, those of multiply_add.
template <int DIM>
struct RowSums {
    f32 of[DIM / 8][4];
};

template <int DIM>
DEVICE void add_products(RowSums<DIM>& sum, const Strip& p, const ColumnPairs<DIM>& other) {
    UNROLL
    for (int k = 0; k < OTHERS / 16; k++) {
        u32 left[4];
        UNROLL
        for (int e = 0; e < 4; e++) {
            const f32* two = p.of[2 * k + e / 2] + e % 2 * 2;
            left[e] = pack(two[0], two[1]);
        }
        UNROLL
        for (int j = 0; j < DIM / 8; j++) {
            u32 right[2];
            UNROLL
            for (int e = 0; e < 2; e++) right[e] = other.of[k * 8 + lane_pair() + 4 * e][j * 8 + lane_group()];
            multiply_add(sum.of[j], left, right);
        }
    }
}

// Writes the sums, from the element `at` and the column `first` on, times a factor for each of the two halves of the rows.
template <int DIM>
DEVICE void put(const Result& to, i64 at, const RowSums<DIM>& sum, i64 rows, i64 first, i64 width, const f32 (&factor)[2]) {
    UNROLL
    for (int j = 0; j < DIM / 8; j++) {
        UNROLL
        for (int e = 0; e < 4; e++) {
            i64 row = warp_row() + Strip::row(e), column = first + Strip::column(j, e);
            if (row < rows && column < width) to.put(at + row * width + column, sum.of[j][e] * factor[e / 2]);
        }
    }
}

// Makes entry points for widths: make(DIM).
#define FOR_WIDTHS(make) make(48) make(64) make(80) make(128) make(160)
