// A step of AdamW for the trained entries of one weight, whose moments are codes: a block of threads takes a block of entries.
#include "adamw.h"

// Entries that share a scale.
constexpr int ENTRIES = THREADS;

// Levels of the dynamic maps, as in map.rs: the middle of cell `q`, counted from `start`, the cells of the lowest decade.
DEVICE f32 magnitude(u32 q, u32 start) {
    u32 cells = start, scale = 10000000;
    for (; 2 * cells <= q; cells *= 2) scale /= 10;
    return f32(2 * cells + 9 * (2 * (q - cells) + 1)) / f32(2 * cells * scale);
}
DEVICE f32 signed_level(int code) {
    if (code == 127) return 0;
    return code == 255 ? 1 : code > 127 ? magnitude(code - 127, 1) : -magnitude(127 - code, 1);
}
DEVICE f32 unsigned_level(int code) {
    return code == 0 ? 0 : code == 255 ? 1 : magnitude(code + 1, 2);
}

// What the codes stand for. Above limit `i` a number has a code above `i`.
struct Map {
    f32 level[256], limit[256];

    DEVICE u8 code(f32 x) const {
        int code = 0;
        UNROLL
        for (int half = 128; half > 0; half /= 2)
            if (x > limit[code + half - 1]) code += half;
        return u8(code);
    }
};

template <class T>
DEVICE void step(T* w, const u32* idx, f32* p, u8* m, u8* v, f32* g, const f32* hyper, f32* m_absmax, f32* v_absmax,
                 const Places& at, i64 n) {
    SHARED(Map, first);
    SHARED(Map, second);
    const int i = thread_id();
    first.level[i] = signed_level(i);
    second.level[i] = unsigned_level(i);
    __syncthreads();
    if (i < 255) {
        first.limit[i] = (first.level[i] + first.level[i + 1]) / 2;
        second.limit[i] = i == 0 ? 0 : (second.level[i] + second.level[i + 1]) / 2;
    }
    __syncthreads();
    const i64 k = block_id() * ENTRIES + i;
    f32 moments[2] = {0, 0};
    if (k < n) {
        moments[0] = first.level[m[k]] * m_absmax[block_id()];
        moments[1] = second.level[v[k]] * v_absmax[block_id()];
        f32 value = AdamW(hyper, at).step(p[k], g[k], moments[0], moments[1]);
        p[k] = value;
        g[k] = 0;
        if (w) w[idx[k]] = stored<T>(value);
    }
    // All threads have read the scales before the first barrier of this.
    f32 largest[2] = {block_join<ENTRIES>(fabs(moments[0]), Larger()), block_join<ENTRIES>(moments[1], Larger())};
    if (i == 0) {
        m_absmax[block_id()] = largest[0];
        v_absmax[block_id()] = largest[1];
    }
    if (k < n) {
        m[k] = first.code(largest[0] > 0 ? moments[0] / largest[0] : 0);
        v[k] = second.code(largest[1] > 0 ? moments[1] / largest[1] : 0);
    }
}

#define STEP(T, name)                                                                                                 \
    KERNEL(THREADS, sparse_adamw_8bit_##name, T* w, const u32* idx, f32* p, u8* m, u8* v, f32* g, const f32* hyper,   \
           f32* m_absmax, f32* v_absmax, Places at, i64 n) {                                                          \
        step(w, idx, p, m, v, g, hyper, m_absmax, v_absmax, at, n);                                                   \
    }
FOR_FLOATS(STEP)
STEP(bf16, bf16)
STEP(f16, f16)
