// The norm of the gradient and the factor that clips it. The places are those of hyper.rs.
#include "kernel.h"

KERNEL(WARP, clip_norm, const f64* sums, f32* hyper, i64 n, i64 max_norm, i64 norm_at, i64 clip_at) {
    if (thread_id() > 0) return;
    f64 total = 0;
    for (i64 i = 0; i < n; i++) total += sums[i];
    f64 norm = sqrt(total), most_norm = hyper[max_norm], factor = most_norm / (norm + 1e-6);
    // A factor that is not a number must not turn into 1.
    f64 clip = most_norm <= 0 || factor > 1 ? 1 : factor;
    hyper[norm_at] = f32(norm);
    hyper[clip_at] = f32(clip);
}
