// sums[slot] = sum(g^2).
#include "sums.h"

KERNEL(THREADS, sum_squares_parts, const f32* g, f64* parts, i64 n) {
    sum_parts(n, parts, [=](i64 i) { return f64(g[i]) * f64(g[i]); });
}
KERNEL(THREADS, sum_squares_finish, const f64* parts, f64* sum, i64 many) {
    f64 total = sum_of_parts(parts, many);
    if (thread_id() == 0) *sum = total;
}
