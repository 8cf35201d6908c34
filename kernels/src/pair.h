// Elementwise functions of two operands.
#pragma once
#include "kernel.h"

// The list is that of WORDS in binary/cuda.rs.
enum Pair {
    ADD, SUB, MUL, DIV, POW, MOD, FMOD, MIN, MAX, EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, AND, OR, XOR, SHIFT_LEFT,
    SHIFT_RIGHT
};

template <class T>
DEVICE bool compare(int function, T a, T b) {
    switch (function) {
        case EQUAL: return a == b;
        case LESS: return a < b;
        case LESS_EQUAL: return a <= b;
        case GREATER: return a > b;
    }
    return a >= b;
}

template <class T>
DEVICE T real(int function, T a, T b) {
    switch (function) {
        case ADD: return a + b;
        case SUB: return a - b;
        case MUL: return a * b;
        case DIV: return a / b;
        case POW: return b == T(2) ? a * a : T(pow(a, b));
        case MOD: {
            T r = fmod(a, b);
            return r != T(0) && (r < T(0)) != (b < T(0)) ? r + b : r;
        }
        case FMOD: return fmod(a, b);
        case MIN: return a != a || a < b ? a : b;
    }
    return a != a || a > b ? a : b;
}

// a^b for b >= 0, which wraps.
DEVICE u64 power(u64 a, u64 b) {
    u64 result = 1;
    for (; b; b >>= 1) {
        if (b & 1) result *= a;
        a *= a;
    }
    return result;
}

// A double as an integer of the type: cut, within the range, 0 for NaN.
template <class T>
DEVICE T cut(f64 x) {
    constexpr bool SIGNED = T(-1) < T(0);
    constexpr int BITS = 8 * sizeof(T);
    const T top = SIGNED ? T((u64(1) << (BITS - 1)) - 1) : T(~u64(0)), bottom = SIGNED ? T(u64(1) << (BITS - 1)) : T(0);
    if (x != x) return T(0);
    if (x <= f64(bottom)) return bottom;
    if (x >= f64(top)) return top;
    return T(x);
}

// Arithmetic is in 64 bits and cut to the type, so that it wraps.
template <class T>
DEVICE T integer(int function, T a, T b) {
    constexpr int BITS = 8 * sizeof(T);
    const bool minus_one = b == T(-1) && T(-1) < T(0), outside = b < T(0) || u64(b) >= u64(BITS);
    switch (function) {
        case ADD: return T(u64(a) + u64(b));
        case SUB: return T(u64(a) - u64(b));
        case MUL: return T(u64(a) * u64(b));
        case DIV: return b == T(0) ? T(0) : minus_one ? T(0 - u64(a)) : T(a / b);
        // A power too large to count, or negative, of which only those of one and of minus one are whole.
        case POW: return b < T(0) || u64(b) > ALL ? cut<T>(pow(f64(a), f64(b))) : T(power(u64(a), u64(b)));
        case MOD:
        case FMOD: {
            T r = b == T(0) || minus_one ? T(0) : T(a % b);
            return function == MOD && r != T(0) && (r < T(0)) != (b < T(0)) ? T(u64(r) + u64(b)) : r;
        }
        case MIN: return a < b ? a : b;
        case MAX: return a > b ? a : b;
        case AND: return T(a & b);
        case OR: return T(a | b);
        case XOR: return T(a ^ b);
        case SHIFT_LEFT: return outside ? T(0) : T(u64(a) << u64(b));
    }
    return outside ? a < T(0) ? T(-1) : T(0) : T(a >> b);
}
