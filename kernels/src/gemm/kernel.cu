// c = alpha * a @ b + beta * c for each index of a batch: a block for each tile.
#include "product.h"

// Row and column strides of the operands.
struct Strides {
    i64 a[2], b[2], c[2];
};

template <class T>
DEVICE void multiply(const Space<3>& batch, const Strides& s, const T* a, const T* b, T* c, i64 m, i64 n, i64 k,
                     i64 count, T alpha, T beta) {
    i64 across = div_up(n, TILE), row = block_id() / across * TILE, column = block_id() % across * TILE;
    for (i64 index = blockIdx.z; index < count; index += gridDim.z) {
        i64 at[3];
        batch.at(index, at);
        const T *left = a + at[0], *right = b + at[1];
        T* result = c + at[2];
        product_tile<T>(
            row, column, m, n, k, s.a[0] == 1, s.b[0] == 1,
            [&](i64 i, i64 l) { return left[i * s.a[0] + l * s.a[1]]; },
            [&](i64 l, i64 j) { return right[l * s.b[0] + j * s.b[1]]; },
            [&](i64 i, i64 j, T sum) {
                T* to = result + i * s.c[0] + j * s.c[1];
                *to = beta == T(0) ? alpha * sum : fma(beta, *to, alpha * sum);
            });
    }
}

#define MULTIPLY(T, name)                                                                                             \
    KERNEL(THREADS, gemm_##name, Space<3> batch, Strides strides, const T* a, const T* b, T* c, i64 m, i64 n, i64 k,  \
           i64 count, T alpha, T beta) {                                                                              \
        multiply(batch, strides, a, b, c, m, n, k, count, alpha, beta);                                               \
    }
FOR_FLOATS(MULTIPLY)
