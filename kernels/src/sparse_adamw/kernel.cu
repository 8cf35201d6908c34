// A step of AdamW for the trained entries of one weight.
#include "adamw.h"

template <class T>
DEVICE void step(T* w, const u32* idx, f32* p, f32* m, f32* v, f32* g, const f32* hyper, const Places& at, i64 n) {
    AdamW adamw(hyper, at);
    each(n, [=](i64 k) {
        f32 value = adamw.step(p[k], g[k], m[k], v[k]);
        p[k] = value;
        g[k] = 0;
        if (w) w[idx[k]] = stored<T>(value);
    });
}

#define STEP(T, name)                                                                                                 \
    KERNEL(THREADS, sparse_adamw_##name, T* w, const u32* idx, f32* p, f32* m, f32* v, f32* g, const f32* hyper,      \
           Places at, i64 n) {                                                                                        \
        step(w, idx, p, m, v, g, hyper, at, n);                                                                       \
    }
FOR_FLOATS(STEP)
STEP(bf16, bf16)
STEP(f16, f16)
