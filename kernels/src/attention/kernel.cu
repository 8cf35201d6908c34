// y = softmax(scale * q k^T + mask) v: a block for each tile of queries and 128 columns of v, which visits the keys tile by tile
// with a running maximum and sum. Scores are computed again for each 128 columns.
#include "attention_tensor.h"

constexpr int PARTS = 4;

template <class T>
struct Tiles {
    Square<T> left, right, p;
    // Of each query: the largest score, the sum of exponentials, and what sums from before are multiplied by.
    T top[SIDE], total[SIDE], decay[SIDE];
};

template <bool HALF, class T>
DEVICE void attend(const Shape& s, Source<HALF, T> q, Source<HALF, T> k, Source<HALF, T> v, const T* mask, Output<HALF, T> y,
                   T* lse, T scale) {
    SHARED(Tiles<T>, t);
    i64 image = blockIdx.z, query = block_id() * SIDE, column = i64(blockIdx.y) * PARTS * CHUNK;
    if (mask) mask += s.mask(image);
    q = q + image * s.queries * s.dim;
    k = k + image * s.keys * s.dim;
    v = v + image * s.keys * s.value_dim;
    Own<T> sums[PARTS];
    UNROLL
    for (int part = 0; part < PARTS; part++)
        UNROLL for (int i = 0; i < 2; i++) UNROLL for (int j = 0; j < 4; j++) sums[part].of[i][j] = T(0);
    if (thread_id() < SIDE) {
        t.top[thread_id()] = lowest<T>();
        t.total[thread_id()] = T(0);
    }
    for (i64 key = 0; key < s.keys; key += SIDE) {
        Own<T> scores = rows_by_rows<HALF>(q, query, s.queries, k, key, s.keys, s.dim, t.left, t.right);
        UNROLL
        for (int i = 0; i < 2; i++) {
            UNROLL
            for (int j = 0; j < 4; j++) {
                int r = own_row() + i, c = own_column() + j;
                bool inside = query + r < s.queries && key + c < s.keys;
                T score = inside ? scale * scores.of[i][j] : lowest<T>();
                if (inside && mask) score += mask[(query + r) * s.mask_strides[2] + (key + c) * s.mask_strides[3]];
                t.p.of[r][c] = score;
            }
        }
        __syncthreads();
        // Four threads for each query, which are neighbours in a warp.
        int r = thread_id() / 4, quarter = thread_id() % 4 * 8;
        T high = t.top[r], old = high;
        for (int c = quarter; c < quarter + 8; c++) high = Larger()(high, t.p.of[r][c]);
        for (int step = 1; step < 4; step *= 2) high = Larger()(high, __shfl_xor_sync(ALL, high, step));
        // Without any score the exponentials are zero whatever is subtracted, if it is finite.
        T shift = high == lowest<T>() ? T(0) : high, sum = T(0);
        for (int c = quarter; c < quarter + 8; c++) {
            T e = exp(t.p.of[r][c] - shift);
            t.p.of[r][c] = e;
            sum += e;
        }
        for (int step = 1; step < 4; step *= 2) sum += __shfl_xor_sync(ALL, sum, step);
        __syncwarp();
        if (quarter == 0) {
            T decay = exp(old - shift);
            t.decay[r] = decay;
            t.total[r] = fma(t.total[r], decay, sum);
            t.top[r] = high;
        }
        __syncthreads();
        UNROLL
        for (int part = 0; part < PARTS; part++) {
            if (column + part * CHUNK < s.value_dim) {
                UNROLL
                for (int i = 0; i < 2; i++)
                    UNROLL for (int j = 0; j < 4; j++) sums[part].of[i][j] *= t.decay[own_row() + i];
                add_rows<HALF, false>(sums[part], t.p, v, key, s.keys, s.value_dim, column + part * CHUNK, t.right);
            }
        }
    }
    __syncthreads();
    if (thread_id() < SIDE && query + thread_id() < s.queries && blockIdx.y == 0) {
        T total = t.total[thread_id()];
        T sum = total > T(0) ? T(t.top[thread_id()] + log(total)) : lowest<T>();
        lse[image * s.queries + query + thread_id()] = total != total ? total : sum;
    }
    UNROLL
    for (int part = 0; part < PARTS; part++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            i64 r = query + own_row() + i;
            T total = t.total[own_row() + i], factor = total != total ? total : total > T(0) ? T(1) / total : T(0);
            UNROLL
            for (int j = 0; j < 4; j++) {
                i64 c = column + part * CHUNK + own_column() + j;
                if (r < s.queries && c < s.value_dim)
                    y.put((image * s.queries + r) * s.value_dim + c, sums[part].of[i][j] * factor);
            }
        }
    }
}

#define ATTEND(T, name, HALF)                                                                                         \
    KERNEL(SQUARE, attention_##name, Shape s, const void* q, const void* k, const void* v, const T* mask, void* y,    \
           T* lse, T scale, i32 halves) {                                                                             \
        attend<HALF, T>(s, {q, (halves & Q) != 0}, {k, (halves & K) != 0}, {v, (halves & V) != 0}, mask,              \
                        {y, (halves & Y) != 0}, lse, scale);                                                          \
    }
FOR_ATTENTION(ATTEND)

template <bool TF32, int DIM>
struct OtherRows {
    RowWords<TF32, DIM> k;
    ColumnWords<TF32, DIM, PART<DIM>> v;
};

// The same on tensor cores, for keys and values of one width: a block for each 64 queries, and for part of the columns.
template <bool TF32, int DIM>
DEVICE void attend_tensor(const Shape& s, const Operand<TF32>& q, Operand<TF32> k, Operand<TF32> v, const f32* mask,
                          const Result<TF32>& y, f32* lse, f32 scale) {
    constexpr int OTHERS = ::OTHERS<TF32, DIM>;
    using Tiles = OtherRows<TF32, DIM>;
    SHARED(Tiles, t);
    i64 image = blockIdx.z, first = blockIdx.y * PART<DIM>;
    if (mask) mask += s.mask(image);
    k = k + image * s.keys * s.dim;
    v = v + image * s.keys * s.dim;
    OwnRows<TF32, DIM> own;
    load(own, q + image * s.queries * s.dim, s.queries, s.dim);
    RowSums<PART<DIM>> sum = {};
    f32 top[2] = {lowest<f32>(), lowest<f32>()}, total[2] = {0, 0};
    for (i64 key = 0; key < s.keys; key += OTHERS) {
        __syncthreads();
        load(t.k, k, key, s.keys, s.dim);
        load(t.v, v, key, s.keys, first, s.dim);
        __syncthreads();
        Strip<OTHERS> p = products(own, t.k);
        UNROLL
        for (int j = 0; j < OTHERS / 8; j++) {
            UNROLL
            for (int e = 0; e < 4; e++) {
                i64 query = warp_row() + p.row(e), c = key + p.column(j, e);
                f32 score = c < s.keys ? scale * p.of[j][e] : lowest<f32>();
                if (mask && c < s.keys && query < s.queries) score += mask[query * s.mask_strides[2] + c * s.mask_strides[3]];
                p.of[j][e] = score;
            }
        }
        UNROLL
        for (int half = 0; half < 2; half++) {
            f32 high = top[half], part = 0;
            UNROLL
            for (int j = 0; j < OTHERS / 8; j++)
                UNROLL for (int e = 0; e < 2; e++) high = Larger()(high, p.of[j][2 * half + e]);
            // Four neighbouring lanes have a row.
            for (int step = 1; step < 4; step *= 2) high = Larger()(high, __shfl_xor_sync(ALL, high, step));
            f32 shift = high == lowest<f32>() ? 0 : high, decay = exp(top[half] - shift);
            UNROLL
            for (int j = 0; j < OTHERS / 8; j++) {
                UNROLL
                for (int e = 0; e < 2; e++) {
                    f32 value = exp(p.of[j][2 * half + e] - shift);
                    p.of[j][2 * half + e] = value;
                    part += value;
                }
            }
            for (int step = 1; step < 4; step *= 2) part += __shfl_xor_sync(ALL, part, step);
            total[half] = fma(total[half], decay, part);
            top[half] = high;
            UNROLL
            for (int j = 0; j < PART<DIM> / 8; j++) UNROLL for (int e = 0; e < 2; e++) sum.of[j][2 * half + e] *= decay;
        }
        add_products<TF32, DIM>(sum, p, t.v);
    }
    f32 factor[2];
    UNROLL
    for (int half = 0; half < 2; half++) {
        f32 all = total[half];
        factor[half] = all != all ? all : all > 0 ? 1 / all : 0;
        i64 query = warp_row() + lane_group() + half * 8;
        if (first == 0 && lane_pair() == 0 && query < s.queries)
            lse[image * s.queries + query] = all != all ? all : all > 0 ? top[half] + log(all) : lowest<f32>();
    }
    put(y, image * s.queries * s.dim, sum, s.queries, first, s.dim, factor);
}

#define ATTEND_TENSOR(DIM, name, TF32)                                                                                \
    KERNEL(SQUARE, attention_##name, Shape s, const void* q, const void* k, const void* v, const f32* mask, void* y,  \
           f32* lse, f32 scale, i32 halves) {                                                                         \
        attend_tensor<TF32, DIM>(s, {q, (halves & Q) != 0}, {k, (halves & K) != 0}, {v, (halves & V) != 0}, mask,     \
                                 {y, (halves & Y) != 0}, lse, scale);                                                 \
    }
FOR_WIDTHS(ATTEND_TENSOR)
