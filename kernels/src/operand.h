// Operands of products of tiles. What is multiplied is given by two operands, so that a convolution is a product whose operands are
// read where they lie. An operand has
//
//   Element            the type in memory,
//   Line line(i64 i)   what finds the elements of its row or column i,
//   Term term(i64 k)   what finds those of the term k,
//   const Element* place(Line, Term, bool& there)
//                      where the element lies; `there` becomes false where there is a zero instead,
//   WAY                how threads load it where it has no runs,
//   FLAT               whether lines are addresses, from which terms are counted,
//   bool runs()        of what is FLAT, whether in every line the RUN terms from each multiple of RUN on are neighbours in memory, the
//                      first at a multiple of 16 bytes.
#pragma once
#include "half.h"

// How threads load an operand: whole runs of terms; or neighbouring threads neighbouring lines; or neighbouring terms.
enum Way { RUNS, BY_LINES, BY_TERMS };
// Terms that a thread has side by side, and which it stores at once.
constexpr int RUN = 8;

// The bits of an element, and the element.
DEVICE u32 raw_bits(f32 x) {
    return bits_of(x);
}
DEVICE u32 raw_bits(bf16 x) {
    return x.bits;
}
DEVICE u32 raw_bits(f16 x) {
    return x.bits;
}
template <class S>
DEVICE S of_raw(u32 bits) {
    if constexpr (sizeof(S) == 2) return S{u16(bits)};
    else return of_bits(bits);
}

// The bits of an element of global memory that no thread writes, if it is wanted, else zero; without a branch.
template <class S>
DEVICE auto bits_if(bool wanted, const S* at) {
#ifdef __CUDACC_RTC__
#define LOAD_IF(type, move, load, zero)                                                                               \
    asm("{ .reg .pred p; .reg .u64 a; setp.ne.u32 p, %2, 0; cvta.to.global.u64 a, %1; mov." move " %0, " zero         \
        "; @p ld.global.nc." load " %0, [a]; }"                                                                       \
        : "=" type(bits)                                                                                              \
        : "l"(at), "r"(u32(wanted)))
    if constexpr (sizeof(S) == 8) {
        f64 bits;
        LOAD_IF("d", "f64", "f64", "0d0000000000000000");
        return bits;
    } else {
        u32 bits;
        if constexpr (sizeof(S) == 2) LOAD_IF("r", "u32", "u16", "0");
        else LOAD_IF("r", "u32", "u32", "0");
        return bits;
    }
#undef LOAD_IF
#else
    if constexpr (sizeof(S) == 8) return wanted ? *at : S(0);
    else return wanted ? raw_bits(*at) : 0u;
#endif
}
// The same as a number.
template <class S>
DEVICE auto load_if(bool wanted, const S* at) {
    if constexpr (sizeof(S) == 8) return bits_if(wanted, at);
    else return wide(of_raw<S>(bits_if(wanted, at)));
}
DEVICE Quad load_quad_if(bool wanted, const void* at) {
    Quad q = {};
#ifdef __CUDACC_RTC__
    asm("{ .reg .pred p; .reg .u64 a; setp.ne.u32 p, %5, 0; cvta.to.global.u64 a, %4; @p ld.global.nc.v4.u32 {%0, %1, %2, %3}, [a]; }"
        : "+r"(q.of[0]), "+r"(q.of[1]), "+r"(q.of[2]), "+r"(q.of[3])
        : "l"(at), "r"(u32(wanted)));
#else
    if (wanted) q = *static_cast<const Quad*>(at);
#endif
    return q;
}

// An operand whose elements lie at the sum of an address and an offset.
template <class S>
struct Flat {
    const S* at;

    using Element = S;
    using Line = const S*;
    using Term = int;
    static constexpr Way WAY = BY_LINES;
    static constexpr bool FLAT = true;
    DEVICE bool runs() const {
        return false;
    }
    DEVICE const S* place(Line line, Term term, bool&) const {
        return line + term;
    }
    // Whether runs begin at multiples of 16 bytes where they lie at multiples of these distances.
    DEVICE bool aligned(i64 distance, i64 other = 0) const {
        return (reinterpret_cast<u64>(at) | u64(distance * sizeof(S)) | u64(other * sizeof(S))) % sizeof(Quad) == 0;
    }
};

// A matrix.
template <class S>
struct Plain : Flat<S> {
    i64 line_stride, term_stride;

    DEVICE bool runs() const {
        return term_stride == 1 && this->aligned(line_stride);
    }
    DEVICE const S* line(i64 i) const {
        return this->at + i * line_stride;
    }
    DEVICE int term(i64 k) const {
        return int(k * term_stride);
    }
};

// Two elements rounded to bfloat16, the first in the lower half.
DEVICE u32 paired(bf16 low, bf16 high) {
    return low.bits | u32(high.bits) << 16;
}
template <class S>
DEVICE u32 paired(S low, S high) {
    return pack(wide(low), wide(high));
}
