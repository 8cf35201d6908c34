// Gradient of a matrix weight at its trained entries: dp[k] = sum over tokens of A[token, row] * B[token, column].
#include "masked.h"

// An operand whose lines are channels and whose terms are tokens of all images.
template <class S>
struct Tokens : Flat<S> {
    i64 n, token, channel, image;

    DEVICE bool runs() const {
        return token == 1 && n % RUN == 0 && this->aligned(channel, image);
    }
    DEVICE const S* line(i64 i) const {
        return this->at + i * channel;
    }
    DEVICE int term(i64 k) const {
        return int(over(k, n) * image + rest(k, n) * token);
    }
};

// Distance between tokens and between channels, and between elements of the batch.
struct Layout {
    i64 n, token[2], channel[2], image[2];
};

template <int SIDE, class S>
DEVICE Tokens<S> tokens(const Layout& l, const S* at) {
    return Tokens<S>{{at}, l.n, l.token[SIDE], l.channel[SIDE], l.image[SIDE]};
}

#define SAMPLE(A, B, T, name)                                                                                         \
    KERNEL(THREADS, masked_matmul_grad_sample_##name, Layout layout, const A* a, const B* b, const u32* idx, T* dp,   \
           i64 count, i64 cols, i64 terms) {                                                                          \
        sample_places(idx, count, cols, terms, dp, tokens<0>(layout, a), tokens<1>(layout, b));                       \
    }
FOR_ROUNDED_OPERANDS(SAMPLE)

#define TILES(A, B, T, name, P)                                                                                       \
    KERNEL(THREADS, masked_matmul_grad_tile_##name, Layout layout, const A* a, const B* b, const u32* idx, T* dp,     \
           i64 count, i64 rows, i64 cols, i64 terms, Split<T> split) {                                                \
        tile_places<P>(idx, count, 0, rows, cols, terms, layout.channel[0] == 1, layout.channel[1] == 1,              \
                    tokens<0>(layout, a), tokens<1>(layout, b), dp, split);                                           \
    }
FOR_ROUNDED_TILES(TILES)

#define JOIN(T, name) MASKED_JOIN(T, masked_matmul_grad_join_##name)
FOR_FLOATS(JOIN)
