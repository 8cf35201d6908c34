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

// Where an element of an image lies: of its channels the first element, and its place.
struct Point {
    i64 at;
    int place[3];
};

// The point that the flat place i of an image has.
DEVICE Point point(i64 i, const i64 (&extents)[3], i64 at) {
    Point p;
    p.at = at;
    for (int d = 2; d >= 0; d--) {
        p.place[d] = int(rest(i, extents[d]));
        i = over(i, extents[d]);
    }
    return p;
}

// Elements of the input that output elements read: a line is an output element of an image, a term a channel of the group and a
// tap.
template <class S>
struct Sources {
    const Geometry& g;
    const S* x;
    i64 group;

    using Line = Point;
    using Term = Point;
    DEVICE Line line(i64 i) const {
        i64 points = g.outputs();
        Point p = point(rest(i, points), g.output, (over(i, points) * g.ci + group * over(g.ci, g.groups)) * g.inputs());
        for (int d = 0; d < 3; d++) p.place[d] = int(p.place[d] * g.strides[d] - g.pads[d]);
        return p;
    }
    DEVICE Term term(i64 k) const {
        Point p = point(rest(k, g.taps()), g.kernel, over(k, g.taps()) * g.inputs());
        for (int d = 0; d < 3; d++) p.place[d] *= int(g.dilations[d]);
        return p;
    }
    DEVICE auto load(const Line& line, const Term& term) const {
        i64 at = 0;
        bool inside = true;
        UNROLL
        for (int d = 0; d < 3; d++) {
            int i = line.place[d] + term.place[d];
            inside = inside && u32(i) < u32(g.input[d]);
            at = at * g.input[d] + i;
        }
        decltype(wide(*x)) zero = 0;
        return inside ? wide(x[line.at + term.at + at]) : zero;
    }
};

// Elements of the output that read input elements: a line is an input element of an image, a term a channel of the group and a
// tap.
template <class S>
struct Targets {
    const Geometry& g;
    const S* dy;
    i64 group;

    using Line = Point;
    using Term = Point;
    DEVICE Line line(i64 i) const {
        i64 elements = g.inputs();
        Point p = point(rest(i, elements), g.input, (over(i, elements) * g.co + group * over(g.co, g.groups)) * g.outputs());
        for (int d = 0; d < 3; d++) p.place[d] += int(g.pads[d]);
        return p;
    }
    DEVICE Term term(i64 k) const {
        Point p = point(rest(k, g.taps()), g.kernel, over(k, g.taps()) * g.outputs());
        for (int d = 0; d < 3; d++) p.place[d] *= int(g.dilations[d]);
        return p;
    }
    DEVICE auto load(const Line& line, const Term& term) const {
        i64 at = 0;
        bool inside = true;
        UNROLL
        for (int d = 0; d < 3; d++) {
            int o = line.place[d] - term.place[d], stride = int(g.strides[d]);
            if (stride != 1) {
                inside = inside && o % stride == 0;
                o = o < 0 ? o : o / stride;
            }
            inside = inside && u32(o) < u32(g.output[d]);
            at = at * g.output[d] + o;
        }
        decltype(wide(*dy)) zero = 0;
        return inside ? wide(dy[line.at + term.at + at]) : zero;
    }
};

// Elements of an image's channels: a line is a channel of the group, a term an element of an image.
template <class S>
struct Channels {
    const S* at;
    i64 channels, first, elements;

    using Line = i64;
    using Term = i64;
    DEVICE Line line(i64 i) const {
        return (first + i) * elements;
    }
    DEVICE Term term(i64 k) const {
        return over(k, elements) * channels * elements + rest(k, elements);
    }
    DEVICE auto load(Line line, Term term) const {
        return wide(at[line + term]);
    }
};

// An operand whose lines are another's terms.
template <class O>
struct Turned {
    O of;

    using Line = typename O::Term;
    using Term = typename O::Line;
    DEVICE Line line(i64 i) const {
        return of.term(i);
    }
    DEVICE Term term(i64 k) const {
        return of.line(k);
    }
    DEVICE auto load(const Line& line, const Term& term) const {
        return of.load(term, line);
    }
};

// put(i, y) for the element that channel o of a group has at the output element j, counted over the images.
template <class T, class F>
DEVICE void put_output(const Geometry& g, const T* bias, i64 group, i64 o, i64 j, T sum, F put) {
    i64 channel = group * over(g.co, g.groups) + o, points = g.outputs();
    put((over(j, points) * g.co + channel) * points + rest(j, points), bias ? sum + bias[channel] : sum);
}

// Convolution as a product: output channels of a group by output elements of all images, over input channels and taps.
template <Precision P, class X, class S, class T, class F>
DEVICE void convolve(const Geometry& g, const X* x, const S* w, const T* bias, const Split<T>& split, F put) {
    i64 co = over(g.co, g.groups), terms = over(g.ci, g.groups) * g.taps(), group = blockIdx.z;
    Plain<S> left{w + group * co * terms, terms, 1};
    product<T, P>(group, co, g.n * g.outputs(), terms, false, true, left, Sources<X>{g, x, group}, split, g.groups,
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
