//! Convolutions, normalisations, pooling and resizing.

use super::*;

pub(super) fn add(cases: &mut Vec<Case>) {
    convolutions(cases);
    transposed(cases);
    norms(cases);
    softmax(cases);
    pooling(cases);
    resizing(cases);
}

fn convolutions(cases: &mut Vec<Case>) {
    let mut conv = |about: &str, x: &[usize], w: &[usize], bias: bool, attrs: &[common::Attr]| {
        let operands = if bias { vec![f(x), g(w), f(&[w[0]])] } else { vec![f(x), g(w)] };
        cases.push(Case::new("Conv", 11, about, operands.clone(), attrs));
        if matches!(about, "plain" | "groups") {
            cases.push(Case::new("Conv", 9, about, operands.clone(), attrs));
            cases.push(Case::new("Conv", 22, about, operands, attrs));
        }
    };
    conv("plain", &[1, 3, 5, 6], &[4, 3, 3, 3], true, &[]);
    conv("no bias", &[2, 3, 5, 6], &[4, 3, 3, 3], false, &[]);
    conv("kernel shape", &[1, 3, 5, 6], &[2, 3, 3, 2], true, &[("kernel_shape", ints(&[3, 2]))]);
    conv("padded", &[1, 3, 5, 6], &[4, 3, 3, 3], true, &[("pads", ints(&[1, 1, 1, 1]))]);
    conv("uneven pads", &[1, 2, 5, 6], &[4, 2, 3, 3], true, &[("pads", ints(&[0, 1, 2, 3]))]);
    let attrs = [("strides", ints(&[2, 3])), ("pads", ints(&[1, 0, 1, 2]))];
    conv("strided", &[1, 2, 7, 8], &[3, 2, 3, 2], true, &attrs);
    conv("dilated", &[1, 2, 7, 8], &[3, 2, 3, 2], true, &[("dilations", ints(&[2, 3]))]);
    conv("pointwise", &[2, 5, 3, 4], &[7, 5, 1, 1], true, &[]);
    conv("groups", &[1, 4, 5, 5], &[6, 2, 3, 3], true, &[("group", int(2)), ("pads", ints(&[1, 1, 1, 1]))]);
    conv("depthwise", &[2, 4, 5, 5], &[8, 1, 3, 3], false, &[("group", int(4))]);
    conv("1d", &[2, 3, 9], &[4, 3, 3], true, &[("strides", ints(&[2])), ("pads", ints(&[1, 1]))]);
    conv("1d dilated", &[1, 3, 9], &[4, 3, 3], false, &[("dilations", ints(&[3])), ("pads", ints(&[2, 0]))]);
    conv("3d", &[1, 2, 4, 3, 5], &[3, 2, 2, 3, 2], true, &[("pads", ints(&[0, 1, 0, 1, 1, 0]))]);
    conv(
        "3d strided groups",
        &[1, 4, 5, 4, 3],
        &[2, 2, 2, 2, 2],
        true,
        &[("group", int(2)), ("strides", ints(&[2, 1, 1]))],
    );
    for auto in ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"] {
        for strides in [[1, 1], [2, 2], [3, 1]] {
            let attrs = [("auto_pad", txt(auto)), ("strides", ints(&strides))];
            conv(&format!("{auto} {strides:?}"), &[1, 2, 6, 7], &[3, 2, 2, 3], true, &attrs);
        }
    }
    conv("SAME_UPPER 1d", &[1, 2, 7], &[3, 2, 4], false, &[("auto_pad", txt("SAME_UPPER"))]);
}

fn transposed(cases: &mut Vec<Case>) {
    let mut conv = |about: &str, x: &[usize], w: &[usize], bias: usize, attrs: &[common::Attr]| {
        let operands = if bias > 0 { vec![f(x), g(w), f(&[bias])] } else { vec![f(x), g(w)] };
        cases.push(Case::new("ConvTranspose", 11, about, operands.clone(), attrs));
        if about == "plain" {
            cases.push(Case::new("ConvTranspose", 9, about, operands.clone(), attrs));
            cases.push(Case::new("ConvTranspose", 22, about, operands, attrs));
        }
    };
    conv("plain", &[1, 3, 4, 5], &[3, 2, 3, 3], 2, &[]);
    conv("no bias", &[2, 3, 4, 5], &[3, 2, 3, 3], 0, &[]);
    conv("strided", &[1, 3, 4, 5], &[3, 2, 4, 4], 2, &[("strides", ints(&[2, 2])), ("pads", ints(&[1, 1, 1, 1]))]);
    conv("uneven pads", &[1, 3, 4, 5], &[3, 2, 3, 3], 2, &[("strides", ints(&[2, 1])), ("pads", ints(&[0, 1, 2, 0]))]);
    let more = [("strides", ints(&[2, 3])), ("output_padding", ints(&[1, 2])), ("pads", ints(&[1, 1, 1, 1]))];
    conv("output padding", &[1, 3, 4, 5], &[3, 2, 3, 3], 2, &more);
    let attrs = [("strides", ints(&[2, 2])), ("output_padding", ints(&[1, 1])), ("kernel_shape", ints(&[1, 1]))];
    conv("output padding beyond the kernel", &[1, 3, 4, 5], &[3, 2, 1, 1], 2, &attrs);
    conv("groups", &[1, 4, 4, 5], &[4, 3, 3, 3], 6, &[("group", int(2))]);
    conv("depthwise", &[1, 4, 4, 5], &[4, 1, 2, 2], 0, &[("group", int(4)), ("strides", ints(&[2, 2]))]);
    conv("dilated", &[1, 3, 4, 5], &[3, 2, 3, 2], 2, &[("dilations", ints(&[2, 3]))]);
    conv("1d", &[2, 3, 5], &[3, 2, 4], 2, &[("strides", ints(&[2])), ("pads", ints(&[1, 1]))]);
    conv("3d", &[1, 2, 2, 3, 2], &[2, 3, 2, 2, 2], 3, &[("strides", ints(&[2, 1, 2]))]);
    for auto in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
        let attrs = [("auto_pad", txt(auto)), ("strides", ints(&[2, 3]))];
        conv(auto, &[1, 3, 4, 5], &[3, 2, 3, 4], 2, &attrs);
        let attrs = [("auto_pad", txt(auto)), ("strides", ints(&[3, 3]))];
        conv(&format!("{auto} small kernel"), &[1, 3, 4, 5], &[3, 2, 2, 2], 2, &attrs);
    }
    let attrs = [("output_shape", ints(&[9, 11])), ("strides", ints(&[2, 2]))];
    conv("output shape", &[1, 3, 4, 5], &[3, 2, 4, 4], 2, &attrs);
    let attrs = [("output_shape", ints(&[8, 10])), ("strides", ints(&[2, 2]))];
    conv("even output shape", &[1, 3, 4, 5], &[3, 2, 3, 3], 2, &attrs);
    let attrs = [("output_shape", ints(&[8, 10])), ("strides", ints(&[2, 2])), ("auto_pad", txt("SAME_UPPER"))];
    conv("even output shape SAME_UPPER", &[1, 3, 4, 5], &[3, 2, 3, 3], 2, &attrs);
}

fn norms(cases: &mut Vec<Case>) {
    for opset in [9, 14, 15] {
        let operands = vec![f(&[2, 3, 4, 5]), f(&[3]), g(&[3]), f(&[3]), p(&[3])];
        cases.push(Case::new("BatchNormalization", opset, "", operands, &[]));
    }
    let operands = || vec![f(&[2, 3, 4]), f(&[3]), g(&[3]), f(&[3]), p(&[3])];
    let attrs = [("epsilon", flt(0.1)), ("momentum", flt(0.5))];
    cases.push(Case::new("BatchNormalization", 15, "epsilon", operands(), &attrs));
    cases.push(Case::new(
        "BatchNormalization",
        15,
        "rank 2",
        vec![f(&[4, 3]), f(&[3]), g(&[3]), f(&[3]), p(&[3])],
        &[],
    ));

    for opset in [9, 22] {
        for shape in [&[2, 3, 7][..], &[2, 3, 4, 5], &[1, 3, 2, 2, 3]] {
            let operands = vec![f(shape), f(&[3]), g(&[3])];
            let attrs = [("epsilon", flt(1e-3))];
            cases.push(Case::new("InstanceNormalization", opset, &format!("{shape:?}"), operands, &attrs));
        }
    }
    for (groups, shape) in [(1, &[2, 4, 5][..]), (2, &[2, 4, 3, 2]), (4, &[1, 4, 3])] {
        let attrs = [("num_groups", int(groups)), ("epsilon", flt(1e-4))];
        let affine = groups as usize;
        cases.push(Case::new(
            "GroupNormalization",
            18,
            &format!("{groups}"),
            vec![f(shape), f(&[affine]), g(&[affine])],
            &attrs,
        ));
        cases.push(Case::new("GroupNormalization", 21, &format!("{groups}"), vec![f(shape), f(&[4]), g(&[4])], &attrs));
    }

    for (axis, row) in [(-1, &[4][..]), (2, &[4]), (1, &[3, 4]), (0, &[2, 3, 4]), (-2, &[3, 4])] {
        let attrs = [("axis", int(axis)), ("epsilon", flt(1e-3))];
        cases.push(Case::new(
            "LayerNormalization",
            17,
            &format!("{axis}"),
            vec![f(&[2, 3, 4]), f(row), g(row)],
            &attrs,
        ));
        cases.push(Case::new(
            "LayerNormalization",
            17,
            &format!("{axis} no bias"),
            vec![f(&[2, 3, 4]), f(row)],
            &attrs,
        ));
    }
    cases.push(Case::new("LayerNormalization", 17, "default", vec![f(&[2, 6]), f(&[6]), g(&[6])], &[]));
    cases.push(Case::new("LayerNormalization", 17, "stash", vec![f(&[2, 6]), f(&[6])], &[("stash_type", int(1))]));
    for (axis, row) in [(-1, &[4][..]), (1, &[3, 4])] {
        let attrs = [("axis", int(axis)), ("epsilon", flt(1e-3))];
        cases.push(Case::new("RMSNormalization", 23, &format!("{axis}"), vec![f(&[2, 3, 4]), f(row)], &attrs));
    }
    cases.push(Case::new("RMSNormalization", 23, "default", vec![f(&[2, 6]), f(&[6])], &[]));
}

fn softmax(cases: &mut Vec<Case>) {
    for op in ["Softmax", "LogSoftmax"] {
        for opset in [9, 11, 13] {
            cases.push(Case::new(op, opset, "default", vec![f(&[2, 3, 4])], &[]));
            for axis in [0, 1, 2] {
                cases.push(Case::new(op, opset, &format!("{axis}"), vec![f(&[2, 3, 4])], &[("axis", int(axis))]));
            }
        }
        cases.push(Case::new(op, 13, "-2", vec![f(&[2, 3, 4])], &[("axis", int(-2))]));
        cases.push(Case::new(op, 11, "-1", vec![f(&[2, 3, 4])], &[("axis", int(-1))]));
        cases.push(Case::new(op, 13, "rank 1", vec![f(&[5])], &[]));
        cases.push(Case::new(op, 13, "large", vec![fs(&[1000.0, 999.0, -1000.0, 0.0])], &[]));
        cases.push(Case::new(op, 13, "of f64", vec![t(F64, &[3], &[0.5, -1.0, 2.0])], &[]));
    }
}

fn pooling(cases: &mut Vec<Case>) {
    let mut pool = |about: &str, opsets: &[i64], x: &[usize], kernel: &[i64], attrs: &[common::Attr]| {
        let attrs = [&[("kernel_shape", ints(kernel))], attrs].concat();
        for opset in opsets {
            cases.push(Case::new("AveragePool", *opset, about, vec![f(x)], &attrs));
        }
    };
    let every = &[7, 10, 11, 19, 22];
    pool("plain", every, &[1, 2, 5, 6], &[2, 3], &[]);
    pool("strided", every, &[1, 2, 5, 6], &[2, 2], &[("strides", ints(&[2, 2]))]);
    let pads = ("pads", ints(&[1, 0, 1, 2]));
    pool("padded", every, &[1, 2, 5, 6], &[3, 3], std::slice::from_ref(&pads));
    pool("padding counts", every, &[1, 2, 5, 6], &[3, 3], &[pads.clone(), ("count_include_pad", int(1))]);
    let ceil = [("strides", ints(&[2, 2])), ("ceil_mode", int(1))];
    pool("ceil", &[10, 11, 19, 22], &[1, 2, 5, 6], &[2, 3], &ceil);
    let both = [&ceil[..], &[("pads", ints(&[1, 1, 1, 1])), ("count_include_pad", int(1))]].concat();
    pool("ceil, padding counts", &[19, 22], &[1, 2, 6, 5], &[3, 2], &both);
    let padded = [&ceil[..], &[("pads", ints(&[1, 1, 1, 1]))]].concat();
    pool("ceil, padded", &[11, 22], &[1, 2, 6, 7], &[3, 2], &padded);
    pool("dilated", &[19, 22], &[1, 2, 7, 8], &[2, 3], &[("dilations", ints(&[2, 3]))]);
    pool("1d", &[11], &[2, 3, 9], &[4], &[("strides", ints(&[3]))]);
    pool("3d", &[11], &[1, 2, 4, 3, 5], &[2, 2, 2], &[]);
    for auto in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
        pool(auto, &[11, 22], &[1, 2, 5, 6], &[2, 3], &[("auto_pad", txt(auto)), ("strides", ints(&[2, 2]))]);
    }
}

/// An operand of Resize that is not given. Version 11 has an empty tensor in its place.
fn none(opset: i64) -> Operand {
    if opset < 13 { t(F32, &[0], &[]).c() } else { no() }
}

fn resizing(cases: &mut Vec<Case>) {
    for mode in ["nearest", "linear"] {
        let attrs = [("mode", txt(mode))];
        for scales in [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 3.0, 2.0]] {
            let about = format!("{mode} {scales:?}");
            let list = Value::Floats(scales.iter().map(|s| *s as f32).collect());
            cases.push(Case::new("Upsample", 7, &about, vec![f(&[1, 2, 3, 4])], &[attrs[0].clone(), ("scales", list)]));
            cases.push(Case::new("Upsample", 9, &about, vec![f(&[1, 2, 3, 4]), cf(&scales)], &attrs));
            cases.push(Case::new("Resize", 10, &about, vec![f(&[1, 2, 3, 4]), cf(&scales)], &attrs));
        }
        cases.push(Case::new(
            "Resize",
            10,
            &format!("{mode} down"),
            vec![f(&[1, 2, 6, 8]), cf(&[1.0, 1.0, 0.5, 0.6])],
            &attrs,
        ));
    }
    let x = || f(&[1, 2, 5, 6]);
    let transforms = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"];
    let changes: [(&str, [f64; 4]); 3] =
        [("up", [1.0, 1.0, 2.0, 3.0]), ("down", [1.0, 1.0, 0.6, 0.5]), ("odd", [1.0, 1.0, 1.7, 2.3])];
    for opset in [11, 13, 18] {
        for transform in transforms {
            for (about, scales) in changes {
                // Sizes that are no whole numbers mean different things to ONNX Runtime and to the operator's reference.
                if (transform, about) == ("align_corners", "odd") {
                    continue;
                }
                for mode in ["linear", "cubic"] {
                    let attrs = [("mode", txt(mode)), ("coordinate_transformation_mode", txt(transform))];
                    let operands = vec![x(), none(opset), cf(&scales)];
                    let name = format!("{mode} {transform} {about}");
                    cases.push(Case::new("Resize", opset, &name, operands, &attrs).loose());
                }
                for rounding in ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] {
                    let attrs = [
                        ("mode", txt("nearest")),
                        ("coordinate_transformation_mode", txt(transform)),
                        ("nearest_mode", txt(rounding)),
                    ];
                    let operands = vec![x(), none(opset), cf(&scales)];
                    let name = format!("nearest {rounding} {transform} {about}");
                    cases.push(Case::new("Resize", opset, &name, operands, &attrs));
                }
            }
            for mode in ["nearest", "linear", "cubic"] {
                for sizes in [[1, 2, 7, 9], [1, 2, 3, 4], [1, 2, 1, 1]] {
                    let attrs = [("mode", txt(mode)), ("coordinate_transformation_mode", txt(transform))];
                    let operands = vec![x(), none(opset), none(opset), ci(&sizes)];
                    let name = format!("{mode} {transform} to {sizes:?}");
                    cases.push(Case::new("Resize", opset, &name, operands, &attrs).loose());
                }
            }
        }
        cases.push(Case::new("Resize", opset, "default", vec![x(), none(opset), cf(&[1.0, 1.0, 2.0, 2.0])], &[]));
        let empty = t(F32, &[0], &[]).c();
        let operands = vec![x(), empty.clone(), empty, ci(&[1, 2, 10, 12])];
        cases.push(Case::new("Resize", opset, "empty operands", operands, &[("mode", txt("linear"))]).loose());
        let cubic = [("mode", txt("cubic")), ("cubic_coeff_a", flt(-0.5)), ("exclude_outside", int(1))];
        cases.push(
            Case::new("Resize", opset, "cubic exclude", vec![x(), none(opset), cf(&[1.0, 1.0, 2.0, 1.5])], &cubic)
                .loose(),
        );
        let crop = [("mode", txt("linear")), ("coordinate_transformation_mode", txt("tf_crop_and_resize"))];
        let roi = cf(&[0.0, 0.0, 0.2, 0.3, 1.0, 1.0, 0.8, 0.9]);
        cases.push(Case::new("Resize", opset, "crop", vec![x(), roi, none(opset), ci(&[1, 2, 4, 5])], &crop).loose());
        let roi = cf(&[0.0, 0.0, 0.4, 0.6, 1.0, 1.0, 1.2, 1.7]);
        cases.push(
            Case::new("Resize", opset, "crop beyond", vec![x(), roi, none(opset), ci(&[1, 2, 4, 5])], &crop).loose(),
        );
    }
    for opset in [18, 19] {
        for mode in ["linear", "cubic"] {
            for scales in [[1.0, 1.0, 0.6, 0.5], [1.0, 1.0, 0.8, 0.3], [1.0, 1.0, 2.0, 0.5]] {
                let attrs = [("mode", txt(mode)), ("antialias", int(1))];
                let name = format!("{mode} antialias {scales:?}");
                cases.push(Case::new("Resize", opset, &name, vec![x(), no(), cf(&scales)], &attrs).loose());
            }
        }
        let axes = ("axes", ints(&[2, 3]));
        let linear = ("mode", txt("linear"));
        cases.push(
            Case::new("Resize", opset, "axes", vec![x(), no(), cf(&[2.0, 1.5])], &[axes.clone(), linear.clone()])
                .loose(),
        );
        let turned = [("axes", ints(&[3, 2])), linear.clone()];
        cases.push(Case::new("Resize", opset, "axes turned", vec![x(), no(), no(), ci(&[9, 4])], &turned).loose());
        for policy in ["stretch", "not_larger", "not_smaller"] {
            let attrs = [axes.clone(), linear.clone(), ("keep_aspect_ratio_policy", txt(policy))];
            cases.push(Case::new("Resize", opset, policy, vec![x(), no(), no(), ci(&[10, 9])], &attrs).loose());
        }
    }
    let attrs = [("mode", txt("linear")), ("coordinate_transformation_mode", txt("half_pixel_symmetric"))];
    cases.push(
        Case::new("Resize", 19, "half_pixel_symmetric", vec![x(), no(), cf(&[1.0, 1.0, 1.3, 0.7])], &attrs).loose(),
    );
    cases.push(
        Case::new(
            "Resize",
            11,
            "rank 3",
            vec![f(&[1, 2, 5]), none(11), cf(&[1.0, 1.0, 2.0])],
            &[("mode", txt("linear"))],
        )
        .loose(),
    );
    cases.push(Case::new(
        "Resize",
        11,
        "rank 5",
        vec![f(&[1, 1, 2, 3, 2]), none(11), cf(&[1.0, 1.0, 2.0, 2.0, 2.0])],
        &[],
    ));
    cases.push(Case::new("Resize", 11, "nothing", vec![x(), none(11), cf(&[1.0; 4])], &[]));
}
