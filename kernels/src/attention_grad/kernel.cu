// Gradients of attention without a sum that two blocks share: tiles of probabilities and of the gradient of scores are computed
// again for queries, keys and values. A block owns a tile of rows and 64 columns of its result.
#include "attention.h"

constexpr int PARTS = 2;

template <class T>
struct Tiles {
    Square<T> left, right, p;
};

// d = rowsum(dy * y): a warp for each query.
template <class T>
DEVICE void row_sums(const T* y, const T* dy, T* d, i64 rows, i64 width) {
    i64 row = block_id() * (THREADS / WARP) + thread_id() / WARP;
    if (row >= rows) return;
    T sum = T(0);
    for (i64 i = thread_id() % WARP; i < width; i += WARP) sum = fma(y[row * width + i], dy[row * width + i], sum);
    sum = warp_join(sum, Add());
    if (thread_id() % WARP == 0) d[row] = sum;
}

enum Target { QUERIES, KEYS, VALUES };

template <bool HALF, Target TARGET, class T>
DEVICE void gradient(const Shape& s, const T* q, const T* k, const T* v, const T* mask, const T* lse, const T* dy,
                     const T* d, T* result, T scale) {
    SHARED(Tiles<T>, t);
    i64 image = blockIdx.z, column = i64(blockIdx.y) * PARTS * CHUNK;
    if (mask) mask += s.mask(image);
    q += image * s.queries * s.dim;
    k += image * s.keys * s.dim;
    v += image * s.keys * s.value_dim;
    dy += image * s.queries * s.value_dim;
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
                if (r < rows && c < width) result[(image * rows + r) * width + c] = sums[part].of[i][j];
            }
        }
    }
}

#define GRADIENT(T, name, HALF, target, TARGET)                                                                       \
    KERNEL(SQUARE, attention_grad_##target##_##name, Shape s, const T* q, const T* k, const T* v, const T* mask,      \
           const T* lse, const T* dy, const T* d, T* result, T scale) {                                               \
        gradient<HALF, TARGET>(s, q, k, v, mask, lse, dy, d, result, scale);                                          \
    }
#define GRADIENTS(T, name, HALF)                                                                                      \
    GRADIENT(T, name, HALF, q, QUERIES)                                                                               \
    GRADIENT(T, name, HALF, k, KEYS)                                                                                  \
    GRADIENT(T, name, HALF, v, VALUES)
FOR_ATTENTION(GRADIENTS)

#define SUMS(T, name)                                                                                                 \
    KERNEL(THREADS, attention_grad_sums_##name, const T* y, const T* dy, T* d, i64 rows, i64 width) {                 \
        row_sums(y, dy, d, rows, width);                                                                              \
    }
FOR_FLOATS(SUMS)
