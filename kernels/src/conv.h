// The shape of a convolution, as cuda_geometry in conv/geometry.rs writes it; spatial dimensions are depth, height, width.
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

    // Input element that an output element reads through a tap; -1 where it is padding.
    DEVICE i64 source(i64 point, i64 tap) const {
        i64 at = 0, scale = 1;
        for (int d = 2; d >= 0; d--) {
            i64 i = point % output[d] * strides[d] + tap % kernel[d] * dilations[d] - pads[d];
            if (i < 0 || i >= input[d]) return -1;
            at += i * scale;
            scale *= input[d];
            point /= output[d];
            tap /= kernel[d];
        }
        return at;
    }

    // Output element that reads an input element through a tap; -1 if there is none.
    DEVICE i64 target(i64 element, i64 tap) const {
        i64 at = 0, scale = 1;
        for (int d = 2; d >= 0; d--) {
            i64 o = element % input[d] + pads[d] - tap % kernel[d] * dilations[d];
            if (o < 0 || o % strides[d] != 0 || o / strides[d] >= output[d]) return -1;
            at += o / strides[d] * scale;
            scale *= output[d];
            element /= input[d];
            tap /= kernel[d];
        }
        return at;
    }
};
