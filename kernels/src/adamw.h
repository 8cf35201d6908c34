// A step of AdamW for one entry, in double precision.
#pragma once
#include "half.h"

// Places of hyper-parameters, in the order of cuda.rs of sparse_adamw.
struct Places {
    i64 clip, learning_rate, weight_decay, beta1, beta2, rest1, rest2, correction1, correction2, epsilon;
};

struct AdamW {
    f64 keep, clip, beta1, beta2, rest1, rest2, size, root, epsilon;

    DEVICE AdamW(const f32* hyper, const Places& at) {
        f64 rate = hyper[at.learning_rate];
        keep = 1 - rate * hyper[at.weight_decay], clip = hyper[at.clip];
        beta1 = hyper[at.beta1], beta2 = hyper[at.beta2], rest1 = hyper[at.rest1], rest2 = hyper[at.rest2];
        size = rate / hyper[at.correction1], root = 1 / sqrt(f64(hyper[at.correction2])), epsilon = hyper[at.epsilon];
    }

    // The new value; the moments become the new ones.
    DEVICE f32 step(f32 p, f32 g, f32& m, f32& v) const {
        f64 d = f64(g) * clip;
        f64 first = fma(beta1, f64(m), rest1 * d), second = fma(beta2, f64(v), rest2 * d * d);
        m = f32(first);
        v = f32(second);
        return f32(f64(p) * keep - size * first / fma(sqrt(second), root, epsilon));
    }
};
