// Elementwise functions of one operand and their derivatives; function.rs has the same formulas. The list is that of WORDS in
// unary/cuda.rs.
#pragma once
#include "kernel.h"

enum Function {
    NEG, ABS, SIGN, FLOOR, CEIL, ROUND, EXP, LOG, SQRT, RECIPROCAL, SIN, COS, TAN, ASIN, ACOS, ATAN, SINH, COSH, ASINH,
    ACOSH, ATANH, TANH, SIGMOID, ERF, RELU, LEAKY_RELU, ELU, CELU, SELU, SOFTPLUS, SOFTSIGN, HARD_SIGMOID, HARD_SWISH, SILU,
    MISH, GELU, GELU_TANH, QUICK_GELU, CLIP, NOT, BIT_NOT
};

// value, or NaN where x is NaN.
template <class T>
DEVICE T nan_of(T x, T value) {
    return x != x ? x : value;
}
template <class T>
DEVICE T sign(T x) {
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : x;
}
template <class T>
DEVICE T flat(T x) {
    return nan_of(x, T(0));
}
// 1 where x is positive, else otherwise.
template <class T>
DEVICE T above(T x, T otherwise) {
    return x > T(0) ? T(1) : nan_of(x, otherwise);
}
template <class T>
DEVICE T clamp(T x, T low, T high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}
// x * factor, where a factor of zero wins over infinity.
template <class T>
DEVICE T gate(T x, T factor) {
    return factor == T(0) ? copysign(factor, x) : x * factor;
}
template <class T>
DEVICE T sigmoid(T x) {
    T e = exp(-fabs(x));
    return (x < T(0) ? e : T(1)) / (T(1) + e);
}
template <class T>
DEVICE T sigmoid_slope(T x) {
    T e = exp(-fabs(x)), d = T(1) + e;
    return e / (d * d);
}
// The normal distribution function, and its density.
template <class T>
DEVICE T normal(T x) {
    return T(0.5) * erfc(x * T(-0.70710678118654752440));
}
template <class T>
DEVICE T density(T x) {
    return T(0.3989422804014327) * exp(x * x * T(-0.5));
}
// Twice the argument of the hyperbolic tangent in GELU's approximation.
template <class T>
DEVICE T twice_cubic(T x) {
    return x * (x * x * T(0.0713548162726) + T(1.5957691216057307));
}
// (1 + exp(x))^2 - 1, the numerator of the hyperbolic tangent of softplus.
template <class T>
DEVICE T mish_part(T x) {
    T e = exp(x > T(20) ? T(20) : x);
    return e * (e + T(2));
}

template <class T>
DEVICE T value(int function, T x, T alpha, T beta) {
    switch (function) {
        case NEG: return -x;
        case ABS: return fabs(x);
        case SIGN: return sign(x);
        case FLOOR: return floor(x);
        case CEIL: return ceil(x);
        case ROUND: return rint(x);
        case EXP: return exp(x);
        case LOG: return log(x);
        case SQRT: return sqrt(x);
        case RECIPROCAL: return T(1) / x;
        case SIN: return sin(x);
        case COS: return cos(x);
        case TAN: return tan(x);
        case ASIN: return asin(x);
        case ACOS: return acos(x);
        case ATAN: return atan(x);
        case SINH: return sinh(x);
        case COSH: return cosh(x);
        case ASINH: return asinh(x);
        case ACOSH: return acosh(x);
        case ATANH: return atanh(x);
        case TANH: return tanh(x);
        case SIGMOID: return sigmoid(x);
        case ERF: return erf(x);
        case RELU: return x < T(0) ? T(0) : x;
        case LEAKY_RELU: return x < T(0) ? alpha * x : x;
        case ELU: return x < T(0) ? alpha * expm1(x) : x;
        case CELU: return x < T(0) ? alpha * expm1(x / alpha) : x;
        case SELU: return beta * (x < T(0) ? alpha * expm1(x) : x);
        case SOFTPLUS: return (x > T(0) ? x : T(0)) + nan_of(x, T(log1p(exp(-fabs(x)))));
        case SOFTSIGN: return isinf(x) ? sign(x) : x / (fabs(x) + T(1));
        case HARD_SIGMOID: return clamp(alpha * x + beta, T(0), T(1));
        case HARD_SWISH: return gate(x, clamp(x * T(1.0 / 6.0) + T(0.5), T(0), T(1)));
        case SILU: return gate(x, sigmoid(x));
        case MISH: {
            T n = mish_part(x);
            return gate(x, n / (n + T(2)));
        }
        case GELU: return gate(x, normal(x));
        case GELU_TANH: return gate(x, sigmoid(twice_cubic(x)));
        case QUICK_GELU: return gate(x, sigmoid(alpha * x));
        case CLIP: return clamp(x, alpha, beta);
    }
    return T(NAN);
}

template <class T>
DEVICE T slope(int function, T x, T alpha, T beta) {
    switch (function) {
        case NEG: return T(-1);
        case ABS: return sign(x);
        case SIGN:
        case FLOOR:
        case CEIL:
        case ROUND: return flat(x);
        case EXP: return exp(x);
        case LOG: return T(1) / x;
        case SQRT: return T(0.5) / sqrt(x);
        case RECIPROCAL: {
            T r = T(1) / x;
            return -(r * r);
        }
        case SIN: return cos(x);
        case COS: return -sin(x);
        case TAN: {
            T t = tan(x);
            return t * t + T(1);
        }
        case ASIN: return T(1) / sqrt((T(1) - x) * (T(1) + x));
        case ACOS: return T(-1) / sqrt((T(1) - x) * (T(1) + x));
        case ATAN: return T(1) / (x * x + T(1));
        case SINH: return cosh(x);
        case COSH: return sinh(x);
        case ASINH: return T(1) / sqrt(x * x + T(1));
        case ACOSH: return T(1) / sqrt((x - T(1)) * (x + T(1)));
        case ATANH: return T(1) / ((T(1) - x) * (T(1) + x));
        case TANH: return T(4) * sigmoid_slope(T(2) * x);
        case SIGMOID: return sigmoid_slope(x);
        case ERF: return T(1.1283791670955126) * exp(-(x * x));
        case RELU: return above(x, T(0));
        case LEAKY_RELU: return above(x, alpha);
        case ELU: return x < T(0) ? alpha * exp(x) : above(x, alpha);
        case CELU: return x < T(0) ? T(exp(x / alpha)) : above(x, T(1));
        case SELU: return beta * (x < T(0) ? alpha * exp(x) : above(x, alpha));
        case SOFTPLUS: return sigmoid(x);
        case SOFTSIGN: {
            T d = fabs(x) + T(1);
            return T(1) / d / d;
        }
        case HARD_SIGMOID: {
            T y = alpha * x + beta;
            return y > T(0) && y < T(1) ? alpha : flat(x);
        }
        case HARD_SWISH:
            return x > T(-3) ? x < T(3) ? x * T(1.0 / 3.0) + T(0.5) : nan_of(x, T(1)) : nan_of(x, T(0));
        case SILU: return sigmoid(x) + gate(x, sigmoid_slope(x));
        case MISH: {
            T n = mish_part(x), d = T(1) / (n + T(2));
            return n * d + gate(x, T(4) * (n + T(1)) * d * d * sigmoid(x) * (x > T(40) ? T(0) : T(1)));
        }
        case GELU: return normal(x) + gate(x, density(x));
        case GELU_TANH: {
            T u = twice_cubic(x), du = x * (x * x * T(3 * 0.0713548162726) + T(1.5957691216057307));
            return sigmoid(u) + gate(du, sigmoid_slope(u));
        }
        case QUICK_GELU: return sigmoid(alpha * x) + alpha * gate(x, sigmoid_slope(alpha * x));
        case CLIP: return x >= alpha && x <= beta ? T(1) : flat(x);
    }
    return T(NAN);
}

// The functions of integers. Arithmetic is in 64 bits and cut to the type, so that it wraps.
template <class T>
DEVICE T integer(int function, T x, T low, T high) {
    switch (function) {
        case NEG: return T(0 - u64(x));
        case ABS: return x < T(0) ? T(0 - u64(x)) : x;
        case SIGN: return x > T(0) ? T(1) : T(0 - u64(x < T(0)));
        case RELU: return x < T(0) ? T(0) : x;
        case CLIP: return clamp(x, low, high);
        case NOT: return T(x == T(0));
        case BIT_NOT: return T(~u64(x));
    }
    return x;
}
