// Gradients of attention without a sum that two blocks share: tiles of probabilities and of the gradient of scores are computed
// again for queries, keys and values. A block owns a tile of rows and 64 columns of its result.
#include "attention_tensor.h"

constexpr int PARTS = 2;

template <class T>
struct Tiles {
    Square<T> left, right, p;
};

// d = rowsum(dy * y): a warp for each query.
template <bool HALF, class T>
DEVICE void row_sums(Source<HALF, T> y, Source<HALF, T> dy, T* d, i64 rows, i64 width) {
    i64 row = block_id() * (THREADS / WARP) + thread_id() / WARP;
    if (row >= rows) return;
    T sum = T(0);
    for (i64 i = thread_id() % WARP; i < width; i += WARP) sum = fma(y[row * width + i], dy[row * width + i], sum);
    sum = warp_join(sum, Add());
    if (thread_id() % WARP == 0) d[row] = sum;
}

enum Target { QUERIES, KEYS, VALUES };

template <bool HALF, Target TARGET, class T>
DEVICE void gradient(const Shape& s, Source<HALF, T> q, Source<HALF, T> k, Source<HALF, T> v, const T* mask, const T* lse,
                     Source<HALF, T> dy, const T* d, Output<HALF, T> result, T scale) {
    SHARED(Tiles<T>, t);
    i64 image = blockIdx.z, column = i64(blockIdx.y) * PARTS * CHUNK;
    if (mask) mask += s.mask(image);
    q = q + image * s.queries * s.dim;
    k = k + image * s.keys * s.dim;
    v = v + image * s.keys * s.value_dim;
    dy = dy + image * s.queries * s.value_dim;
    lse += image * s.queries;
    d += image * s.queries;
    const i64 rows = TARGET == QUERIES ? s.queries : s.keys, width = TARGET == VALUES ? s.value_dim : s.dim;
    const i64 others = TARGET == QUERIES ? s.keys : s.queries, own = block_id() * SIDE;
    Own<T> sums[PARTS];
    UNROLL
    for (int part = 0; part < PARTS; part++)
        UNROLL for (int i = 0; i < 2; i++) UNROLL for (int j = 0; j < 4; j++) sums[part].of[i][j] = T(0);
    for (i64 other = 0; other < others; other += SIDE) {
        i64 query = TARGET == QUERIES ? own : other, key = TARGET == QUERIES ? other : own;
        Own<T> p = rows_by_rows<HALF>(q, query, s.queries, k, key, s.keys, s.dim, t.left, t.right), dp;
        if (TARGET != VALUES) dp = rows_by_rows<HALF>(dy, query, s.queries, v, key, s.keys, s.value_dim, t.left, t.right);
        UNROLL
        for (int i = 0; i < 2; i++) {
            i64 r = query + own_row() + i;
            UNROLL
            for (int j = 0; j < 4; j++) {
                i64 c = key + own_column() + j;
                T value = T(0);
                if (r < s.queries && c < s.keys) {
                    T score = scale * p.of[i][j] + (mask ? mask[r * s.mask_strides[2] + c * s.mask_strides[3]] : T(0));
                    // A query without keys has no probabilities.
                    value = lse[r] == lowest<T>() ? T(0) : T(exp(score - lse[r]));
                    if (TARGET != VALUES) value = value * (dp.of[i][j] - d[r]) * scale;
                }
                t.p.of[own_row() + i][own_column() + j] = value;
            }
        }
        __syncthreads();
        UNROLL
        for (int part = 0; part < PARTS; part++) {
            if (column + part * CHUNK < width)
                add_rows<HALF, TARGET != QUERIES>(sums[part], t.p, TARGET == QUERIES ? k : TARGET == KEYS ? q : dy, other, others,
                                            width, column + part * CHUNK, t.right);
        }
        __syncthreads();
    }
    UNROLL
    for (int part = 0; part < PARTS; part++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            UNROLL
            for (int j = 0; j < 4; j++) {
                i64 r = own + own_row() + i, c = column + part * CHUNK + own_column() + j;
                if (r < rows && c < width) result.put((image * rows + r) * width + c, sums[part].of[i][j]);
            }
        }
    }
}

#define GRADIENT(T, name, HALF, target, TARGET)                                                                       \
    KERNEL(SQUARE, attention_grad_##target##_##name, Shape s, const void* q, const void* k, const void* v,            \
           const T* mask, const T* lse, const void* dy, const T* d, void* result, T scale, i32 halves) {              \
        gradient<HALF, TARGET, T>(s, {q, (halves & Q) != 0}, {k, (halves & K) != 0}, {v, (halves & V) != 0}, mask,    \
                                  lse, {dy, (halves & DY) != 0}, d, {result, (halves & RESULT) != 0}, scale);         \
    }
#define GRADIENTS(T, name, HALF)                                                                                      \
    GRADIENT(T, name, HALF, q, QUERIES)                                                                               \
    GRADIENT(T, name, HALF, k, KEYS)                                                                                  \
    GRADIENT(T, name, HALF, v, VALUES)
FOR_ATTENTION(GRADIENTS)

template <bool TF32, int DIM>
struct OtherRows {
    RowWords<TF32, DIM> first, second;
    ColumnWords<TF32, DIM, PART<DIM>> third;
};

// The same on tensor cores, for keys and values of one width: a block for each 64 rows of the result, and for part of its
// columns.
template <Target TARGET, bool TF32, int DIM>
DEVICE void gradient_tensor(const Shape& s, Operand<TF32> q, Operand<TF32> k, Operand<TF32> v, const f32* mask,
                            const f32* lse, Operand<TF32> dy, const f32* d, const Result<TF32>& result, f32 scale) {
    constexpr int OTHERS = ::OTHERS<TF32, DIM>;
    using Tiles = OtherRows<TF32, DIM>;
    SHARED(Tiles, t);
    i64 image = blockIdx.z, first = blockIdx.y * PART<DIM>;
    if (mask) mask += s.mask(image);
    q = q + image * s.queries * s.dim;
    k = k + image * s.keys * s.dim;
    v = v + image * s.keys * s.dim;
    dy = dy + image * s.queries * s.dim;
    lse += image * s.queries;
    d += image * s.queries;
    constexpr bool BY_QUERY = TARGET == QUERIES, SCORES = TARGET != VALUES;
    const i64 rows = BY_QUERY ? s.queries : s.keys, others = BY_QUERY ? s.keys : s.queries;
    // Registers have room for both, but for wide rows of whole words.
    constexpr bool KEPT = !TF32 || DIM <= 80;
    OwnRows<TF32, DIM> own, own_values;
    load(own, BY_QUERY ? q : k, rows, s.dim);
    if constexpr (SCORES && KEPT) load(own_values, BY_QUERY ? dy : v, rows, s.dim);
    RowSums<PART<DIM>> sum = {};
    for (i64 other = 0; other < others; other += OTHERS) {
        __syncthreads();
        load(t.first, BY_QUERY ? k : q, other, others, s.dim);
        if constexpr (SCORES) load(t.second, BY_QUERY ? v : dy, other, others, s.dim);
        load(t.third, TARGET == QUERIES ? k : TARGET == KEYS ? q : dy, other, others, first, s.dim);
        __syncthreads();
        Strip<OTHERS> p = products(own, t.first), dp = {};
        if constexpr (SCORES && KEPT) dp = products(own_values, t.second);
        else if constexpr (SCORES) dp = products<TF32, DIM>(BY_QUERY ? dy : v, rows, s.dim, t.second);
        UNROLL
        for (int j = 0; j < OTHERS / 8; j++) {
            UNROLL
            for (int e = 0; e < 4; e++) {
                i64 row = warp_row() + p.row(e), column = other + p.column(j, e);
                i64 query = BY_QUERY ? row : column, key = BY_QUERY ? column : row;
                f32 value = 0;
                if (row < rows && column < others) {
                    f32 score = scale * p.of[j][e];
                    if (mask) score += mask[query * s.mask_strides[2] + key * s.mask_strides[3]];
                    // A query without keys has no probabilities.
                    value = lse[query] == lowest<f32>() ? 0 : exp(score - lse[query]);
                    if (SCORES) value = value * (dp.of[j][e] - d[query]) * scale;
                }
                p.of[j][e] = value;
            }
        }
        add_products<TF32, DIM>(sum, p, t.third);
    }
    const f32 one[2] = {1, 1};
    put(result, image * rows * s.dim, sum, rows, first, s.dim, one);
}

#define GRADIENT_TENSOR(DIM, name, TF32, target, TARGET)                                                              \
    KERNEL(SQUARE, attention_grad_##target##_##name, Shape s, const void* q, const void* k, const void* v,            \
           const f32* mask, const f32* lse, const void* dy, const f32* d, void* result, f32 scale, i32 halves) {      \
        gradient_tensor<TARGET, TF32, DIM>(s, {q, (halves & Q) != 0}, {k, (halves & K) != 0}, {v, (halves & V) != 0}, \
                                           mask, lse, {dy, (halves & DY) != 0}, d, {result, (halves & RESULT) != 0},  \
                                           scale);                                                                    \
    }
#define GRADIENTS_TENSOR(DIM, name, TF32)                                                                             \
    GRADIENT_TENSOR(DIM, name, TF32, q, QUERIES)                                                                      \
    GRADIENT_TENSOR(DIM, name, TF32, k, KEYS)                                                                         \
    GRADIENT_TENSOR(DIM, name, TF32, v, VALUES)
FOR_WIDTHS(GRADIENTS_TENSOR)

#define SUMS(T, name, HALF)                                                                                           \
    KERNEL(THREADS, attention_grad_sums_##name, const void* y, const void* dy, T* d, i64 rows, i64 width,             \
           i32 halves) {                                                                                              \
        row_sums<HALF, T>({y, (halves & Y) != 0}, {dy, (halves & DY) != 0}, d, rows, width);                          \
    }
FOR_ATTENTION(SUMS)
