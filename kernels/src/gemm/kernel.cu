// c = alpha * a @ b + beta * c for each index of a batch, of which a launch takes those from the first on: a block for each tile.
#include "product.h"

// Row and column strides of the operands.
struct Strides {
    i64 a[2], b[2], c[2];
};

template <class T>
DEVICE void put(T* to, T sum, T alpha, T beta) {
    *to = beta == T(0) ? alpha * sum : fma(beta, *to, alpha * sum);
}

template <Precision P, class A, class B, class T>
DEVICE void multiply(const Space<3>& batch, const Strides& s, const A* a, const B* b, T* c, i64 m, i64 n, i64 k, i64 first,
                     i64 count, T alpha, T beta, const Split<T>& split) {
    i64 at[3], index = first + blockIdx.z;
    batch.at(index, at);
    Plain<A> left{a + at[0], s.a[0], s.a[1]};
    Plain<B> right{b + at[1], s.b[1], s.b[0]};
    T* result = c + at[2];
    product<T, P>(index, m, n, k, s.a[0] == 1, s.b[1] == 1, left, right, split, count,
                     [&](i64 i, i64 j, T sum) { put(result + i * s.c[0] + j * s.c[1], sum, alpha, beta); });
}

#define MULTIPLY(A, B, T, name, P, BLOCKS)                                                                            \
    KERNEL_OF(THREADS, BLOCKS, gemm_##name, Space<3> batch, Strides strides, const A* a, const B* b, T* c, i64 m,     \
              i64 n, i64 k, i64 first, i64 count, T alpha, T beta, Split<T> split) {                                  \
        multiply<P>(batch, strides, a, b, c, m, n, k, first, count, alpha, beta, split);                              \
    }
MULTIPLY(f32, f32, f32, f32_f32, EXACT, 1)
MULTIPLY(f32, f32, f32, f32_f32_split, SPLIT, 1)
MULTIPLY(f64, f64, f64, f64_f64, EXACT, 1)
MULTIPLY(bf16, f32, f32, bf16_f32, HALF, HALF_BLOCKS)
MULTIPLY(f32, bf16, f32, f32_bf16, HALF, HALF_BLOCKS)
MULTIPLY(bf16, bf16, f32, bf16_bf16, HALF, HALF_BLOCKS)

#define JOIN(T, name)                                                                                                 \
    KERNEL(THREADS, gemm_join_##name, Space<3> batch, Strides s, const T* parts, T* c, i64 m, i64 n, i64 count,       \
           i64 shares, T alpha, T beta) {                                                                             \
        each(count * m * n, [&](i64 e) {                                                                              \
            i64 at[3];                                                                                                \
            batch.at(over(e, m * n), at);                                                                             \
            put(c + at[2] + rest(over(e, n), m) * s.c[0] + rest(e, n) * s.c[1], joined(parts, e, count * m * n, shares), alpha, \
                beta);                                                                                                \
        });                                                                                                           \
    }
FOR_FLOATS(JOIN)
