// Products of matrices: put(i, column, sum) for each element of the result, where it lies.
#pragma once
#include "product.h"

// Row and column strides of the operands.
struct Strides {
    i64 a[2], b[2], c[2];
};

// a @ b for each index of a batch, of which a launch takes those from the first on: a block for each tile.
template <Precision P, class A, class B, class T, class F>
DEVICE void multiply(const Space<3>& batch, const Strides& s, const A* a, const B* b, i64 m, i64 n, i64 k, i64 first, i64 count,
                     const Split<T>& split, F put) {
    i64 at[3], index = first + blockIdx.z;
    batch.at(index, at);
    Plain<A> left{{a + at[0]}, s.a[0], s.a[1]};
    Plain<B> right{{b + at[1]}, s.b[1], s.b[0]};
    product<T, P>(index, m, n, k, s.a[0] == 1, s.b[1] == 1, left, right, split, count,
                  [&](i64 i, i64 j, T sum) { put(at[2] + i * s.c[0] + j * s.c[1], j, sum); });
}

// The sums of what shares of the terms left.
template <class T, class F>
DEVICE void join(const Space<3>& batch, const Strides& s, const T* parts, i64 m, i64 n, i64 count, i64 shares, F put) {
    each(count * m * n, [&](i64 e) {
        i64 at[3];
        batch.at(over(e, m * n), at);
        put(at[2] + rest(over(e, n), m) * s.c[0] + rest(e, n) * s.c[1], rest(e, n), joined(parts, e, count * m * n, shares));
    });
}
