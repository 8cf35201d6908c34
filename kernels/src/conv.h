// The shape of a convolution, as Geometry::param writes it; spatial dimensions are depth, height, width.
#pragma once
#include "product.h"

struct Geometry {
    i64 n, groups, ci, co;
    i64 input[3], output[3], kernel[3], strides[3], pads[3], dilations[3];

    DEVICE i64 inputs() const {
        return input[0] * input[1] * input[2];
    }
    DEVICE i64 outputs() const {
        return output[0] * output[1] * output[2];
    }
    DEVICE i64 taps() const {
        return kernel[0] * kernel[1] * kernel[2];
    }
};

// Where an element of an image lies, counted or as an address, and its place in the last D dimensions. What finds an element is a sum of
// two points, of which only the places tell whether it is inside.
template <class At, int D>
struct Point {
    At at;
    int place[D];
};

// The place of the flat index i among the last D of `extents`.
template <int D>
DEVICE void place_at(i64 i, const i64 (&extents)[3], int (&place)[D]) {
    for (int d = D - 1; d >= 0; d--) {
        place[d] = int(rest(i, extents[3 - D + d]));
        i = over(i, extents[3 - D + d]);
    }
}
// The flat index of a place.
template <int D>
DEVICE i64 index_of(const int (&place)[D], const i64 (&extents)[3]) {
    i64 index = 0;
    for (int d = 0; d < D; d++) index = index * extents[3 - D + d] + place[d];
    return index;
}
// Whether the sum of two points is inside.
template <class At, int D>
DEVICE bool inside(const Point<At, D>& line, const Point<i64, D>& term, const i64 (&extents)[3]) {
    bool all = true;
    UNROLL
    for (int d = 0; d < D; d++) all &= u32(line.place[d] + term.place[d]) < u32(extents[3 - D + d]);
    return all;
}

// Elements of the input that output elements read: a line is an output element of an image, a term a channel of the group and a
// tap. Dimensions before the last D have one element and one tap.
template <class S, int D>
struct Sources {
    const Geometry& g;
    const S* x;
    i64 group;

    using Element = S;
    using Line = Point<const S*, D>;
    using Term = Point<i64, D>;
    static constexpr Way WAY = BY_LINES;
    static constexpr bool FLAT = false;
    DEVICE Line line(i64 i) const {
        i64 points = g.outputs(), image = over(i, points) * g.ci + group * over(g.ci, g.groups);
        Line p;
        place_at(rest(i, points), g.output, p.place);
        for (int d = 0; d < D; d++) p.place[d] = int(p.place[d] * g.strides[3 - D + d] - g.pads[3 - D + d]);
        p.at = x + (image * g.inputs() + index_of(p.place, g.input));
        return p;
    }
    DEVICE Term term(i64 k) const {
        Term p;
        place_at(rest(k, g.taps()), g.kernel, p.place);
        for (int d = 0; d < D; d++) p.place[d] *= int(g.dilations[3 - D + d]);
        p.at = over(k, g.taps()) * g.inputs() + index_of(p.place, g.input);
        return p;
    }
    DEVICE const S* place(const Line& line, const Term& term, bool& there) const {
        there &= inside(line, term, g.input);
        return line.at + term.at;
    }
};

// Elements of the output that read input elements: a line is an input element of an image, a term a channel of the group and a
// tap. With D = 2 all strides are one; with D = 3 lines and terms have only what lies before, and places count elements of the input.
template <class S, int D>
struct Targets {
    const Geometry& g;
    const S* dy;
    i64 group;

    using Element = S;
    using Line = Point<const S*, D>;
    using Term = Point<i64, D>;
    static constexpr Way WAY = BY_LINES;
    static constexpr bool FLAT = false, STRIDED = D == 3;
    DEVICE Line line(i64 i) const {
        i64 elements = g.inputs(), image = over(i, elements) * g.co + group * over(g.co, g.groups);
        Line p;
        place_at(rest(i, elements), g.input, p.place);
        for (int d = 0; d < D; d++) p.place[d] += int(g.pads[3 - D + d]);
        p.at = dy + (image * g.outputs() + (STRIDED ? 0 : index_of(p.place, g.output)));
        return p;
    }
    DEVICE Term term(i64 k) const {
        Term p;
        place_at(rest(k, g.taps()), g.kernel, p.place);
        for (int d = 0; d < D; d++) p.place[d] *= -int(g.dilations[3 - D + d]);
        p.at = over(k, g.taps()) * g.outputs() + (STRIDED ? 0 : index_of(p.place, g.output));
        return p;
    }
    DEVICE const S* place(const Line& line, const Term& term, bool& there) const {
        if constexpr (!STRIDED) {
            there &= inside(line, term, g.output);
            return line.at + term.at;
        }
        int output[D];
        for (int d = 0; d < D; d++) {
            const int input = line.place[d] + term.place[d];
            output[d] = int(over(input, g.strides[d]));
            there &= input >= 0 && rest(input, g.strides[d]) == 0 && output[d] < g.output[d];
        }
        return line.at + (term.at + index_of(output, g.output));
    }
};

// Elements of an image's channels: a line is a channel of the group, a term an element of an image.
template <class S>
struct Channels : Flat<S> {
    i64 channels, first, elements;

    DEVICE bool runs() const {
        return this->aligned(elements) && elements % RUN == 0;
    }
    DEVICE const S* line(i64 i) const {
        return this->at + (first + i) * elements;
    }
    DEVICE int term(i64 k) const {
        return int(over(k, elements) * channels * elements + rest(k, elements));
    }
};

// An operand whose lines are another's terms.
template <class O>
struct Turned {
    O of;

    using Element = typename O::Element;
    using Line = typename O::Term;
    using Term = typename O::Line;
    static constexpr Way WAY = BY_TERMS;
    static constexpr bool FLAT = false;
    DEVICE Line line(i64 i) const {
        return of.term(i);
    }
    DEVICE Term term(i64 k) const {
        return of.line(k);
    }
    DEVICE const Element* place(const Line& line, const Term& term, bool& there) const {
        return of.place(term, line, there);
    }
};

// put(i, y) for the element that channel o of a group has at the output element j, counted over the images.
template <class T, class F>
DEVICE void put_output(const Geometry& g, const T* bias, i64 group, i64 o, i64 j, T sum, F put) {
    i64 channel = group * over(g.co, g.groups) + o, points = g.outputs();
    put((over(j, points) * g.co + channel) * points + rest(j, points), bias ? sum + bias[channel] : sum);
}

// Convolution as a product: output channels of a group by output elements of all images, over input channels and taps.
template <Precision P, int D, class X, class S, class T, class F>
DEVICE void convolve(const Geometry& g, const X* x, const S* w, const T* bias, const Split<T>& split, F put) {
    i64 co = over(g.co, g.groups), terms = over(g.ci, g.groups) * g.taps(), group = blockIdx.z;
    Plain<S> left{{w + group * co * terms}, terms, 1};
    product<T, P>(group, co, g.n * g.outputs(), terms, false, true, left, Sources<X, D>{g, x, group}, split, g.groups,
                  [&](i64 o, i64 j, T sum) { put_output(g, bias, group, o, j, sum, put); });
}

// The sums of what shares of the terms left.
template <class T, class F>
DEVICE void convolve_join(const Geometry& g, const T* parts, const T* bias, i64 shares, F put) {
    i64 co = over(g.co, g.groups), n = g.n * g.outputs(), all = g.co * n;
    each(all, [&](i64 e) {
        put_output(g, bias, over(over(e, n), co), rest(over(e, n), co), rest(e, n), joined(parts, e, all, shares), put);
    });
}

// Makes entry points for the types of a weight and of what it is multiplied with, which is in bfloat16 only where the weight is: make(type
// of the weight, of the other, of the sums, name, precision, blocks for which a multiprocessor has registers).
#define FOR_CONVOLUTIONS(make)                                                                                        \
    make(f32, f32, f32, f32_f32, EXACT, 1) make(f32, f32, f32, f32_f32_split, SPLIT, 1)                               \
        make(f32, f32, f32, f32_f32_tensor, TENSOR, 1) make(f64, f64, f64, f64_f64, EXACT, 1)                         \
            make(bf16, f32, f32, bf16_f32, HALF, HALF_BLOCKS) make(bf16, bf16, f32, bf16_bf16, HALF, HALF_BLOCKS)     \
                make(f16, f32, f32, f16_f32, TENSOR, 1)
