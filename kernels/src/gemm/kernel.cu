// c = alpha * a @ b + beta * c + bias.
#include "gemm.h"

template <class T, class C>
struct Scaled {
    C* c;
    T alpha, beta;
    const T* bias;
    DEVICE void operator()(i64 i, i64 column, T sum) const {
        T all = beta == T(0) ? alpha * sum : fma(beta, T(wide(c[i])), alpha * sum);
        c[i] = stored<C>(bias ? all + bias[column] : all);
    }
};

#define MULTIPLY(A, B, T, C, name, P, BLOCKS)                                                                         \
    KERNEL_OF(THREADS, BLOCKS, gemm_##name, Space<3> batch, Strides strides, const A* a, const B* b, const T* bias,   \
              C* c, i64 m, i64 n, i64 k, i64 first, i64 count, T alpha, T beta, Split<T> split) {                     \
        multiply<P>(batch, strides, a, b, m, n, k, first, count, split, Scaled<T, C>{c, alpha, beta, bias});          \
    }
MULTIPLY(f32, f32, f32, f32, f32_f32_f32, EXACT, 1)
MULTIPLY(f32, f32, f32, f32, f32_f32_f32_split, SPLIT, 1)
MULTIPLY(f32, f32, f32, f32, f32_f32_f32_tensor, TENSOR, 1)
MULTIPLY(f64, f64, f64, f64, f64_f64_f64, EXACT, 1)
MULTIPLY(bf16, f32, f32, f32, bf16_f32_f32, HALF, HALF_BLOCKS)
MULTIPLY(f32, bf16, f32, f32, f32_bf16_f32, HALF, HALF_BLOCKS)
MULTIPLY(bf16, bf16, f32, f32, bf16_bf16_f32, HALF, HALF_BLOCKS)
MULTIPLY(bf16, f32, f32, bf16, bf16_f32_bf16, HALF, HALF_BLOCKS)
MULTIPLY(f32, bf16, f32, bf16, f32_bf16_bf16, HALF, HALF_BLOCKS)
MULTIPLY(bf16, bf16, f32, bf16, bf16_bf16_bf16, HALF, HALF_BLOCKS)
MULTIPLY(f16, f32, f32, f32, f16_f32_f32, TENSOR, 1)
MULTIPLY(f32, f16, f32, f32, f32_f16_f32, TENSOR, 1)
MULTIPLY(f16, f16, f32, f32, f16_f16_f32, TENSOR, 1)

#define JOIN(T, C, name)                                                                                              \
    KERNEL(THREADS, gemm_join_##name, Space<3> batch, Strides s, const T* parts, const T* bias, C* c, i64 m, i64 n,   \
           i64 count, i64 shares, T alpha, T beta) {                                                                  \
        join(batch, s, parts, m, n, count, shares, Scaled<T, C>{c, alpha, beta, bias});                               \
    }
FOR_ROUNDED(JOIN)
