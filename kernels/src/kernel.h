// What every kernel.cu includes. NVRTC compiles the kernels for a GPU; g++ compiles the same files against shim/shim.h, which
// runs the threads of a block as fibers and watches every access to memory.
//
// Rules for kernels: blocks are one-dimensional and of whole warps; all lanes of a warp take part in its exchanges; shared
// memory is declared with SHARED or DYNAMIC; no host headers; no float atomics, because sums have a fixed order.
#pragma once

typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#ifdef __CUDACC_RTC__
// An entry point: threads of a block, blocks for which a multiprocessor must have registers, name, parameters.
#define KERNEL_OF(threads, blocks, name, ...) extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define DEVICE __device__ __forceinline__
// A variable in the memory that the threads of a block share.
#define SHARED(type, name) __shared__ type name
// What the launch asked for beyond that.
#define DYNAMIC(type, name)                                                                                           \
    extern __shared__ __align__(16) unsigned char dynamic_memory[];                                                   \
    type* name = reinterpret_cast<type*>(dynamic_memory)
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#else
#include "shim.h"
#endif

#define KERNEL(threads, name, ...) KERNEL_OF(threads, 1, name, __VA_ARGS__)
#define UNROLL _Pragma("unroll")

constexpr int WARP = 32;
constexpr u32 ALL = 0xffffffffu;

// Number of the block, thread of the block, and threads of a block.
DEVICE i64 block_id() {
    return blockIdx.x;
}
DEVICE int thread_id() {
    return threadIdx.x;
}

template <class T>
DEVICE T least(T a, T b) {
    return a < b ? a : b;
}
template <class T>
DEVICE T most(T a, T b) {
    return a > b ? a : b;
}
// Quotient and rest of what counts elements, of which no argument has as many as 2^31. Division in 64 bits takes registers and
// many times as long.
DEVICE i64 over(i64 a, i64 b) {
    return u32(a) / u32(b);
}
DEVICE i64 rest(i64 a, i64 b) {
    return u32(a) % u32(b);
}
DEVICE i64 div_up(i64 a, i64 b) {
    return over(a + b - 1, b);
}

// Negative infinity.
template <class T>
DEVICE T lowest() {
    return -T(INFINITY);
}

// Elements of a block of an elementwise kernel, and its threads.
constexpr int GRAIN = 1024;
constexpr int THREADS = 256;

// Calls f(i) for the elements of this block among n.
template <class F>
DEVICE void each(i64 n, F f) {
    i64 first = block_id() * GRAIN + thread_id();
    UNROLL
    for (int k = 0; k < GRAIN / THREADS; k++) {
        i64 i = first + k * THREADS;
        if (i < n) f(i);
    }
}

// The same for what has much to do for each element: one after the other, with fewer registers.
template <class F>
DEVICE void each_in_turn(i64 n, F f) {
    i64 first = block_id() * GRAIN + thread_id();
    _Pragma("unroll 1") for (int k = 0; k < GRAIN / THREADS; k++) {
        i64 i = first + k * THREADS;
        if (i < n) f(i);
    }
}

// An index space that N operands are walked over in step, outermost dimension first; strides count elements.
template <int N>
struct Space {
    i64 rank;
    i64 size[16];
    i64 stride[N][16];

    // Offsets of the element i, counted row by row.
    DEVICE void at(i64 i, i64 (&offset)[N]) const {
        for (int k = 0; k < N; k++) offset[k] = 0;
        for (int d = int(rank) - 1; d > 0; d--) {
            i64 outer = over(i, size[d]), place = i - outer * size[d];
            for (int k = 0; k < N; k++) offset[k] += place * stride[k][d];
            i = outer;
        }
        if (rank > 0)
            for (int k = 0; k < N; k++) offset[k] += i * stride[k][0];
    }
};

// The sum, or what f joins, of a value of each lane of the warp, in a fixed order; every lane gets it.
template <class T, class F>
DEVICE T warp_join(T value, F f) {
    UNROLL
    for (int step = WARP / 2; step > 0; step /= 2) value = f(value, __shfl_xor_sync(ALL, value, step));
    return value;
}

// The same over a block of N threads; every thread gets it.
template <int N, class T, class F>
DEVICE T block_join(T value, F f) {
    struct Parts {
        T of[N / WARP];
    };
    SHARED(Parts, parts);
    value = warp_join(value, f);
    if (thread_id() % WARP == 0) parts.of[thread_id() / WARP] = value;
    __syncthreads();
    T total = parts.of[0];
    for (int w = 1; w < N / WARP; w++) total = f(total, parts.of[w]);
    __syncthreads();
    return total;
}

struct Add {
    template <class T>
    DEVICE T operator()(T a, T b) const {
        return a + b;
    }
};
// The larger; of a number and NaN, NaN.
struct Larger {
    template <class T>
    DEVICE T operator()(T a, T b) const {
        return a != a || a > b ? a : b;
    }
};
struct Smaller {
    template <class T>
    DEVICE T operator()(T a, T b) const {
        return a != a || a < b ? a : b;
    }
};

template <int N, class T>
DEVICE T block_sum(T value) {
    return block_join<N>(value, Add());
}

// Makes entry points for the float types: make(type, name of the type).
#define FOR_FLOATS(make) make(f32, f32) make(f64, f64)
#define FOR_INTEGERS(make)                                                                                            \
    make(i64, i64) make(i32, i32) make(i16, i16) make(i8, i8) make(u64, u64) make(u32, u32) make(u16, u16) make(u8, u8)
// Makes entry points for elements that are only moved, by their bytes.
#define FOR_WORDS(make) make(u8, b1) make(u16, b2) make(u32, b4) make(u64, b8)
