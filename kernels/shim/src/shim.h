// CUDA C++ for g++: the threads of a block are fibers, and every access to memory is checked.
//
// The kernels are compiled with the outlined checks of the kernel address sanitiser, whose calls this library answers itself: an
// access must lie in an argument of the launch, in shared memory or in the thread's own stack; two threads that no barrier
// separates must not touch one place if one of them writes; what a launch has to write must not be read before. Barriers in
// diverged branches are found, shared memory is filled with 0xFF before each block, and blocks and threads run in an order
// that a seed chooses.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

#define KERNEL_OF(threads, blocks, name, ...)                                                                                    \
    static void name(__VA_ARGS__);                                                                                    \
    static shim::Entry name##_entry(#name, threads, shim::Thunk<decltype(&name)>::call, (void (*)())name,             \
                                    shim::Thunk<decltype(&name)>::kinds);                                             \
    static void name(__VA_ARGS__)
#define DEVICE inline
#define SHARED(type, name)                                                                                            \
    static char name##_key;                                                                                           \
    type& name = *static_cast<type*>(shim::shared(&name##_key, sizeof(type)))
#define DYNAMIC(type, name) type* name = static_cast<type*>(shim::shared(nullptr, 0))
#define UNCHECKED __attribute__((no_sanitize("address", "kernel-address")))

namespace shim {

struct Index {
    unsigned x, y, z;
};
// Constant within a thread.
Index thread_index() __attribute__((const));
Index block_index() __attribute__((const));
Index grid_size() __attribute__((const));
Index block_size() __attribute__((const));

// Memory of the block for the variable that the key stands for.
void* shared(const char* key, size_t bytes);
// Waits for the block, or for the warp.
void barrier(const char* file, int line);
void warp_barrier(const char* file, int line);
// Gives every lane of the warp the values of all.
void warp_all(const void* mine, size_t bytes, void* all, const char* file, int line);
int lane() __attribute__((const));
// Announces an atomic access.
void atomic(const void* at, size_t bytes);
// Copies that are under way until they are waited for.
void copy_later(void* to, const void* from, size_t bytes);
void copy_commit();
void copy_wait(int pending);

struct Entry {
    Entry(const char* name, int threads, void (*call)(void (*)(), const void* const*), void (*kernel)(),
          void (*kinds)(char*));
};

template <class T>
inline void kind(char*& out) {
    const char* code = "?";
    if (std::is_pointer<T>::value) code = "p";
    else if (std::is_same<T, float>::value) code = "f";
    else if (std::is_same<T, double>::value) code = "d";
    else if (std::is_integral<T>::value && sizeof(T) == 4) code = "i";
    else if (std::is_integral<T>::value && sizeof(T) == 8) code = "l";
    if (*code != '?') {
        *out++ = *code;
    } else {
        *out++ = 's';
        char digits[8];
        int n = 0;
        for (size_t bytes = sizeof(T); bytes; bytes /= 10) digits[n++] = char('0' + bytes % 10);
        while (n) *out++ = digits[--n];
    }
}

template <class F>
struct Thunk;
template <class... A>
struct Thunk<void (*)(A...)> {
    template <size_t... I>
    UNCHECKED static void spread(void (*kernel)(), const void* const* params, std::index_sequence<I...>) {
        reinterpret_cast<void (*)(A...)>(kernel)(*static_cast<const A*>(params[I])...);
    }
    UNCHECKED static void call(void (*kernel)(), const void* const* params) {
        spread(kernel, params, std::index_sequence_for<A...>());
    }
    UNCHECKED static void kinds(char* out) {
        (kind<A>(out), ...);
        *out = 0;
    }
};

template <class T>
UNCHECKED inline T from_lane(T value, int source, const char* file, int line) {
    T all[32];
    warp_all(&value, sizeof(T), all, file, line);
    return all[source & 31];
}
template <class T>
UNCHECKED inline unsigned ballot(T value, const char* file, int line) {
    int mine = value ? 1 : 0, all[32];
    warp_all(&mine, sizeof(int), all, file, line);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) bits |= unsigned(all[i]) << i;
    return bits;
}
template <class T, class F>
UNCHECKED inline T change(T* at, F f) {
    atomic(at, sizeof(T));
    T old = *at;
    *at = f(old);
    return old;
}

}  // namespace shim

#define threadIdx (shim::thread_index())
#define blockIdx (shim::block_index())
#define gridDim (shim::grid_size())
#define blockDim (shim::block_size())
#define __syncthreads() shim::barrier(__FILE__, __LINE__)
// Only whole warps exchange, whatever the mask.
#define __syncwarp(...) shim::warp_barrier(__FILE__, __LINE__)
#define __shfl_sync(mask, value, from) shim::from_lane(value, from, __FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, by) shim::from_lane(value, shim::lane() ^ (by), __FILE__, __LINE__)
#define __shfl_down_sync(mask, value, by)                                                                             \
    shim::from_lane(value, shim::lane() + (by) > 31 ? shim::lane() : shim::lane() + (by), __FILE__, __LINE__)
#define __shfl_up_sync(mask, value, by)                                                                               \
    shim::from_lane(value, shim::lane() < (by) ? shim::lane() : shim::lane() - (by), __FILE__, __LINE__)
// The values of all lanes of the warp, in the order of the lanes.
#define FROM_ALL_LANES(value, all) shim::warp_all(&(value), sizeof(value), all, __FILE__, __LINE__)
#define __ballot_sync(mask, value) shim::ballot(value, __FILE__, __LINE__)
#define __any_sync(mask, value) (shim::ballot(value, __FILE__, __LINE__) != 0)
#define __all_sync(mask, value) (shim::ballot(value, __FILE__, __LINE__) == 0xffffffffu)

template <class T>
inline T atomicAdd(T* at, T by) {
    return shim::change(at, [=](T old) { return old + by; });
}
template <class T>
inline T atomicMax(T* at, T with) {
    return shim::change(at, [=](T old) { return old > with ? old : with; });
}
template <class T>
inline T atomicMin(T* at, T with) {
    return shim::change(at, [=](T old) { return old < with ? old : with; });
}
template <class T>
inline T atomicExch(T* at, T with) {
    return shim::change(at, [=](T) { return with; });
}
template <class T>
inline T atomicCAS(T* at, T expected, T with) {
    return shim::change(at, [=](T old) { return old == expected ? with : old; });
}

using std::acos;
using std::acosh;
using std::asin;
using std::asinh;
using std::atan;
using std::atanh;
using std::ceil;
using std::copysign;
using std::cos;
using std::cosh;
using std::erf;
using std::erfc;
using std::exp;
using std::expm1;
using std::fabs;
using std::floor;
using std::fma;
using std::fmod;
using std::isinf;
using std::isnan;
using std::log;
using std::log1p;
using std::pow;
using std::rint;
using std::sin;
using std::sinh;
using std::sqrt;
using std::tan;
using std::tanh;
