// A step of AdamW for the trained entries of one weight, in double precision. The order of `at` is that of cuda.rs.
#include "half.h"

struct Places {
    i64 clip, learning_rate, weight_decay, beta1, beta2, rest1, rest2, correction1, correction2, epsilon;
};

template <class T>
DEVICE void step(T* w, const u32* idx, f32* p, f32* m, f32* v, f32* g, const f32* hyper, const Places& at, i64 n) {
    f64 rate = hyper[at.learning_rate], keep = 1 - rate * hyper[at.weight_decay], clip = hyper[at.clip];
    f64 beta1 = hyper[at.beta1], beta2 = hyper[at.beta2], rest1 = hyper[at.rest1], rest2 = hyper[at.rest2];
    f64 size = rate / hyper[at.correction1], root = 1 / sqrt(f64(hyper[at.correction2])), epsilon = hyper[at.epsilon];
    each(n, [=](i64 k) {
        f64 d = f64(g[k]) * clip;
        f64 first = fma(beta1, f64(m[k]), rest1 * d), second = fma(beta2, f64(v[k]), rest2 * d * d);
        f32 value = f32(f64(p[k]) * keep - size * first / fma(sqrt(second), root, epsilon));
        p[k] = value;
        m[k] = f32(first);
        v[k] = f32(second);
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
