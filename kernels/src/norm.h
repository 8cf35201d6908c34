// Normalisation of rows with a factor for each column, with and without a mean, and of groups of channels. Sums are in double
// precision.
#pragma once
#include "half.h"

// put(i, y) with y = (x - mean) * rstd * scale + bias: a block for each row. Operands may be absent.
template <bool CENTERED, class X, class T, class F>
DEVICE void norm_forward(const X* x, const T* scale, const T* bias, T* mean, T* rstd, i64 cols, f64 epsilon, F put) {
    i64 row = block_id();
    x += row * cols;
    f64 size = f64(cols > 0 ? cols : 1), center = 0, spread = 0;
    if (CENTERED) {
        f64 sum = 0;
        for (i64 i = thread_id(); i < cols; i += THREADS) sum += f64(wide(x[i]));
        center = block_sum<THREADS>(sum) / size;
        if (thread_id() == 0) mean[row] = T(center);
    }
    for (i64 i = thread_id(); i < cols; i += THREADS) spread = fma(f64(wide(x[i])) - center, f64(wide(x[i])) - center, spread);
    f64 r = 1 / sqrt(block_sum<THREADS>(spread) / size + epsilon);
    if (thread_id() == 0) rstd[row] = T(r);
    for (i64 i = thread_id(); i < cols; i += THREADS)
        put(row * cols + i, T(fma((f64(wide(x[i])) - center) * r, scale ? f64(scale[i]) : 1, bias ? f64(bias[i]) : 0)));
}

// The same for groups of channels, a block of GROUP threads for each.
constexpr int GROUP = 512;

template <class X, class T, class F>
DEVICE void group_norm_forward(const X* x, const T* scale, const T* bias, T* mean, T* rstd, i64 groups, i64 depth, i64 inner,
                               f64 epsilon, F put) {
    i64 group = block_id(), len = depth * inner, channel = rest(group, groups) * depth;
    x += group * len;
    f64 size = f64(len > 0 ? len : 1), sum = 0, spread = 0;
    for (i64 i = thread_id(); i < len; i += GROUP) sum += f64(wide(x[i]));
    f64 center = block_sum<GROUP>(sum) / size;
    for (i64 i = thread_id(); i < len; i += GROUP) spread = fma(f64(wide(x[i])) - center, f64(wide(x[i])) - center, spread);
    f64 r = 1 / sqrt(block_sum<GROUP>(spread) / size + epsilon);
    if (thread_id() == 0) {
        mean[group] = T(center);
        rstd[group] = T(r);
    }
    for (i64 i = thread_id(); i < len; i += GROUP) {
        i64 c = channel + over(i, inner);
        put(group * len + i, T(fma((f64(wide(x[i])) - center) * r, scale ? f64(scale[c]) : 1, bias ? f64(bias[c]) : 0)));
    }
}

// dx = rstd * (g - mean(g) - h * mean(g * h)) with g = dy * scale, h = (x - mean) * rstd: a block for each row.
template <bool CENTERED, class X, class T>
DEVICE void norm_gradient(const X* x, const T* dy, const T* scale, const T* mean, const T* rstd, T* dx, i64 cols) {
    i64 row = block_id();
    x += row * cols;
    dy += row * cols;
    dx += row * cols;
    f64 center = CENTERED ? f64(mean[row]) : 0, r = rstd[row], plain = 0, tilted = 0;
    for (i64 i = thread_id(); i < cols; i += THREADS) {
        f64 g = f64(dy[i]) * (scale ? f64(scale[i]) : 1);
        plain += g;
        tilted = fma(g, f64(wide(x[i])) - center, tilted);
    }
    plain = block_sum<THREADS>(plain);
    tilted = block_sum<THREADS>(tilted);
    f64 b = -r * r * r * tilted / f64(cols), c = CENTERED ? -r * plain / f64(cols) : 0;
    for (i64 i = thread_id(); i < cols; i += THREADS) {
        f64 offset = fma(b, f64(wide(x[i])) - center, c);
        dx[i] = T(fma(r * (scale ? f64(scale[i]) : 1), f64(dy[i]), offset));
    }
}

// Columns of a block of norm_affine, and rows that it takes at once.
constexpr int STRIP = 32;
constexpr int AT_ONCE = THREADS / STRIP;

struct Tile {
    f64 of[2][AT_ONCE][STRIP];
};

// Sums over a part of the rows, for each column, of dy * (x - mean) * rstd and of dy; they go to parts[part][2][cols].
template <bool CENTERED, class T>
DEVICE void norm_affine(const T* x, const T* dy, const T* mean, const T* rstd, f64* parts, i64 rows, i64 cols) {
    SHARED(Tile, tile);
    int lane = thread_id() % STRIP, line = thread_id() / STRIP;
    i64 column = block_id() * STRIP + lane, share = div_up(rows, gridDim.y), first = blockIdx.y * share;
    f64 tilted = 0, plain = 0;
    if (column < cols) {
        for (i64 row = first + line; row < least(rows, first + share); row += AT_ONCE) {
            f64 d = dy[row * cols + column], center = CENTERED ? f64(mean[row]) : 0;
            tilted = fma(d, (f64(x[row * cols + column]) - center) * f64(rstd[row]), tilted);
            plain += d;
        }
    }
    tile.of[0][line][lane] = tilted;
    tile.of[1][line][lane] = plain;
    __syncthreads();
    if (line < 2 && column < cols) {
        f64 sum = 0;
        for (int l = 0; l < AT_ONCE; l++) sum += tile.of[line][l][lane];
        parts[(i64(blockIdx.y) * 2 + line) * cols + column] = sum;
    }
}

// Adds up the parts; dbias may be absent.
template <class T>
DEVICE void norm_affine_finish(const f64* parts, T* dscale, T* dbias, i64 many, i64 cols) {
    i64 column = block_id() * THREADS + thread_id();
    if (column >= cols) return;
    f64 tilted = 0, plain = 0;
    for (i64 p = 0; p < many; p++) {
        tilted += parts[p * 2 * cols + column];
        plain += parts[(p * 2 + 1) * cols + column];
    }
    dscale[column] = T(tilted);
    if (dbias) dbias[column] = T(plain);
}
