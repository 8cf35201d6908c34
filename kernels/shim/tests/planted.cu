// Kernels with one fault each, which the shim must find, beside ones without.
#include "product.h"

struct Row {
    f32 of[64];
};

// y[i] = x[63 - i] through shared memory.
template <bool WAIT>
DEVICE void turn(const f32* x, f32* y) {
    SHARED(Row, row);
    row.of[thread_id()] = x[thread_id()];
    if (WAIT) __syncthreads();
    y[thread_id()] = row.of[63 - thread_id()];
}
KERNEL(64, planted_fine, const f32* x, f32* y) {
    turn<true>(x, y);
}
KERNEL(64, planted_missing_barrier, const f32* x, f32* y) {
    turn<false>(x, y);
}
// Lanes of one warp are no more ordered than others.
KERNEL(32, planted_missing_warp_barrier, const f32* x, f32* y) {
    SHARED(Row, row);
    row.of[thread_id()] = x[thread_id()];
    y[thread_id()] = row.of[31 - thread_id()];
}
KERNEL(32, planted_warp_barrier, const f32* x, f32* y) {
    SHARED(Row, row);
    row.of[thread_id()] = x[thread_id()];
    __syncwarp();
    y[thread_id()] = row.of[31 - thread_id()];
}
KERNEL(64, planted_divergent_barrier, const f32* x, f32* y) {
    if (x[thread_id()] > 0) __syncthreads();
    y[thread_id()] = x[thread_id()];
}
KERNEL(64, planted_two_barriers, const f32* x, f32* y) {
    if (thread_id() < 32) {
        __syncthreads();
        y[thread_id()] = x[thread_id()];
    } else {
        __syncthreads();
        y[thread_id()] = 0;
    }
}
KERNEL(64, planted_early_end, const f32* x, f32* y) {
    y[thread_id()] = x[thread_id()];
    if (thread_id() == 3) return;
    y[thread_id()] += warp_join(x[thread_id()], Add());
}
KERNEL(64, planted_read_beyond, const f32* x, f32* y) {
    y[thread_id()] = x[thread_id() + 1];
}
KERNEL(64, planted_write_beyond, const f32* x, f32* y) {
    y[thread_id() + 1] = x[thread_id()];
}
KERNEL(64, planted_write_operand, f32* x, f32* y) {
    y[thread_id()] = 0;
    x[thread_id()] = 0;
}
KERNEL(64, planted_shared_beyond, const f32* x, f32* y) {
    SHARED(Row, row);
    row.of[thread_id() + 1] = x[thread_id()];
    __syncthreads();
    y[thread_id()] = row.of[thread_id()];
}
KERNEL(64, planted_unset_shared, const f32* x, f32* y) {
    SHARED(Row, row);
    if (thread_id() != 5) row.of[thread_id()] = x[thread_id()];
    __syncthreads();
    y[thread_id()] = row.of[thread_id()];
}
KERNEL(64, planted_unset_result, const f32* x, f32* y) {
    y[thread_id()] += x[thread_id()];
}
KERNEL(64, planted_misaligned, const f32* x, f32* y) {
    y[thread_id()] = f32(*reinterpret_cast<const f64*>(x + 1));
}
// Blocks meet in one element.
KERNEL(64, planted_block_race, const f32* x, f32* y) {
    if (thread_id() == 0) y[0] = x[block_id()];
}
// The sum depends on the order of the blocks.
KERNEL(64, planted_atomic_sum, const f32* x, f32* y) {
    atomicAdd(y, x[thread_id()] * f32(1 << (block_id() % 20)));
}
// The numbers are thirds of whole ones; sums of those are exact, however they are rounded.
DEVICE f32 whole(f32 x) {
    return rint(3 * x);
}
// Whether both forms of the warps' products agree; each thread tells.
template <bool TF32>
DEVICE bool products_agree(const f32* x) {
    u32 a[4], b[2];
    for (int e = 0; e < 4; e++) {
        f32 low = whole(x[thread_id()]) + e;
        a[e] = TF32 ? tf32(low) : pack(low, whole(x[(thread_id() * 7 + e) % 64]));
    }
    for (int e = 0; e < 2; e++) {
        f32 low = whole(x[(thread_id() * 5 + e) % 64]);
        b[e] = TF32 ? tf32(low) : pack(low, whole(x[(thread_id() + 9 * e) % 64]));
    }
    f32 one[4] = {1, 2, 3, 4}, other[4] = {1, 2, 3, 4};
    multiply_add<TF32>(one, a, b);
    MultiplyAdd<TF32>{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}.by_exchange(other);
    bool same = true;
    for (int e = 0; e < 4; e++) same = same && one[e] == other[e] && one[e] != e + 1;
    return same;
}
KERNEL(64, planted_products, const f32* x, f32* y) {
    bool halves = products_agree<false>(x), singles = products_agree<true>(x);
    y[thread_id()] = halves && singles;
}
// The numbers of x again and again.
struct Cycle {
    const f32* x;
    i64 step;

    using Element = f32;
    using Line = int;
    using Term = int;
    static constexpr Way WAY = BY_TERMS;
    static constexpr bool FLAT = false;
    DEVICE Line line(i64 i) const {
        return int(i);
    }
    DEVICE Term term(i64 k) const {
        return int(k * step % 64);
    }
    DEVICE const f32* place(Line, Term term, bool&) const {
        return x + term;
    }
};
// A product of many positive terms of two bfloat16 each.
KERNEL(THREADS, planted_long_product, const f32* x, f32* y) {
    struct Positive {
        f32 of[64];
    };
    SHARED(Positive, positive);
    if (thread_id() < 64) positive.of[thread_id()] = fabs(x[thread_id()]);
    __syncthreads();
    auto sums = product_tile<f32, SPLIT>(0, 0, 1, 1, 0, 8192, false, false, Cycle{positive.of, 1}, Cycle{positive.of, 7});
    sums.each([&](int row, int column, f32 sum) {
        if (row == 0 && column == 0) y[0] = sum;
    });
}
