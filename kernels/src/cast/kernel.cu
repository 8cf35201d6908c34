// y[i] = x[i] in another element type.
#include "convert.h"

// The list is that of KINDS in cuda.rs.
enum Kind { F32, F64, I64, I32, I16, I8, U64, U32, U16, U8, BOOL, BF16, F16 };

template <class S>
DEVICE void conversion(int to, const S* x, void* y, i64 n) {
    each(n, [=](i64 i) {
        auto v = plain(x[i]);
        switch (to) {
            case F32: static_cast<f32*>(y)[i] = convert<f32>(v); break;
            case F64: static_cast<f64*>(y)[i] = convert<f64>(v); break;
            case I64: static_cast<i64*>(y)[i] = convert<i64>(v); break;
            case I32: static_cast<i32*>(y)[i] = convert<i32>(v); break;
            case I16: static_cast<i16*>(y)[i] = convert<i16>(v); break;
            case I8: static_cast<i8*>(y)[i] = convert<i8>(v); break;
            case U64: static_cast<u64*>(y)[i] = convert<u64>(v); break;
            case U32: static_cast<u32*>(y)[i] = convert<u32>(v); break;
            case U16: static_cast<u16*>(y)[i] = convert<u16>(v); break;
            case U8: static_cast<u8*>(y)[i] = convert<u8>(v); break;
            case BOOL: static_cast<u8*>(y)[i] = v != decltype(v)(0); break;
            case BF16: static_cast<bf16*>(y)[i] = stored<bf16>(convert<f32>(v)); break;
            case F16: static_cast<f16*>(y)[i] = stored<f16>(convert<f32>(v)); break;
        }
    });
}

#define CAST(S, name)                                                                                                 \
    KERNEL(THREADS, cast_##name, int to, const S* x, void* y, i64 n) {                                                \
        conversion(to, x, y, n);                                                                                      \
    }
FOR_FLOATS(CAST)
CAST(bf16, bf16)
CAST(f16, f16)
FOR_INTEGERS(CAST)
