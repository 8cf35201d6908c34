// Sums over whole tensors, in double precision: blocks add up parts, then one block adds the parts.
#pragma once
#include "kernel.h"

// parts[block] = the sum of f(i) over the block's share of n elements.
template <class F>
DEVICE void sum_parts(i64 n, f64* parts, F f) {
    i64 share = div_up(n, gridDim.x), first = block_id() * share;
    f64 sum = 0;
    for (i64 i = first + thread_id(); i < least(n, first + share); i += THREADS) sum += f(i);
    sum = block_sum<THREADS>(sum);
    if (thread_id() == 0) parts[block_id()] = sum;
}

// The sum of the parts, for every thread of a block.
DEVICE f64 sum_of_parts(const f64* parts, i64 many) {
    f64 sum = 0;
    for (i64 p = thread_id(); p < many; p += THREADS) sum += parts[p];
    return block_sum<THREADS>(sum);
}
