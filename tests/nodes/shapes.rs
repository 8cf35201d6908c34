//! Constants, shape arithmetic, and operators that move elements.

use super::*;

pub(super) fn add(cases: &mut Vec<Case>) {
    constants(cases);
    joining(cases);
    views(cases);
    picking(cases);
    padding(cases);
    chains(cases);
}

fn constants(cases: &mut Vec<Case>) {
    let values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
    for &dtype in OracleType::ALL {
        for layout in [Layout::Raw, Layout::Typed] {
            for (shape, len) in [(&[2, 3][..], 6), (&[], 1), (&[1], 1)] {
                let tensor = Tensor { layout, ..Tensor::new(dtype, shape, &values[6 - len..]) };
                let about = format!("{dtype}{shape:?} {layout:?}");
                cases.push(Case::new("Constant", 13, &about, vec![], &[("value", Value::Tensor(tensor.clone()))]));
                let operand = Operand { tensor: Some(tensor), constant: true };
                cases.push(Case::new("Identity", 13, &format!("of initialiser {about}"), vec![operand], &[]));
            }
        }
        let fine: &[f64] = match dtype {
            F32 | F64 => &[-0.1, 1e-20, 3e20],
            F16 | BF16 => &[-0.1, 300.0, 0.007],
            I64 | I32 | I16 | I8 => &[-128.0, 127.0, -1.0],
            U64 | U32 | U16 | U8 => &[255.0, 0.0, 128.0],
            Bool => continue,
        };
        for layout in [Layout::Raw, Layout::Typed] {
            let tensor = Tensor { layout, ..Tensor::new(dtype, &[3], fine) };
            let operand = Operand { tensor: Some(tensor), constant: true };
            cases.push(Case::new("Identity", 13, &format!("of extremes of {dtype} {layout:?}"), vec![operand], &[]));
        }
    }
    for opset in [12, 13, 19] {
        cases.push(Case::new("Constant", opset, "value_int", vec![], &[("value_int", int(-7))]));
        cases.push(Case::new("Constant", opset, "value_ints", vec![], &[("value_ints", ints(&[3, -4, 5]))]));
        cases.push(Case::new("Constant", opset, "value_float", vec![], &[("value_float", flt(2.5))]));
        let floats = Value::Floats(vec![0.5, -1.5]);
        cases.push(Case::new("Constant", opset, "value_floats", vec![], &[("value_floats", floats)]));
    }
    let old = Value::Tensor(Tensor::new(F32, &[2], &[1.5, 2.5]));
    cases.push(Case::new("Constant", 9, "", vec![], &[("value", old)]));

    for opset in [9, 20] {
        cases.push(Case::new("ConstantOfShape", opset, "default", vec![ci(&[2, 3])], &[]));
        for (dtype, value) in [(F32, 2.5), (I64, -3.0), (I32, 4.0), (Bool, 1.0), (F64, 0.25), (U8, 9.0)] {
            let tensor = Value::Tensor(Tensor::new(dtype, &[1], &[value]));
            cases.push(Case::new(
                "ConstantOfShape",
                opset,
                &format!("{dtype}"),
                vec![ci(&[2, 3])],
                &[("value", tensor)],
            ));
        }
    }
    cases.push(Case::new("ConstantOfShape", 9, "scalar", vec![ci(&[])], &[]));
    cases.push(Case::new("ConstantOfShape", 9, "empty", vec![ci(&[2, 0])], &[]));

    for opset in [9, 13, 15, 19] {
        cases.push(Case::new("Shape", opset, "", vec![f(&[2, 3, 4])], &[]));
        cases.push(Case::new("Size", opset, "", vec![f(&[2, 3, 4])], &[]));
    }
    cases.push(Case::new("Shape", 15, "scalar", vec![cs(1.0)], &[]));
    cases.push(Case::new("Size", 13, "scalar", vec![cs(1.0)], &[]));
    for (start, end) in [(1, 3), (-2, 3), (0, -1), (-9, 9), (2, 1), (3, 3)] {
        let attrs = [("start", int(start)), ("end", int(end))];
        cases.push(Case::new("Shape", 15, &format!("{start}..{end}"), vec![f(&[2, 3, 4])], &attrs));
    }
    for (dtype, bounds) in [
        (I64, [0.0, 5.0, 1.0]),
        (I64, [7.0, -2.0, -3.0]),
        (I64, [3.0, 3.0, 1.0]),
        (I64, [3.0, 1.0, 1.0]),
        (I32, [1.0, 10.0, 4.0]),
        (F32, [0.0, 1.0, 0.25]),
        (F32, [1.0, 0.0, -0.3]),
        (F64, [0.0, 1.0, 0.1]),
    ] {
        let operands = bounds.iter().map(|v| t(dtype, &[], &[*v]).c()).collect();
        cases.push(Case::new("Range", 11, &format!("{dtype} {bounds:?}"), operands, &[]));
    }
}

fn joining(cases: &mut Vec<Case>) {
    for opset in [4, 11, 13] {
        for axis in [0, 1] {
            let operands = if axis == 0 { vec![f(&[2, 3]), g(&[1, 3])] } else { vec![f(&[2, 3]), g(&[2, 1])] };
            cases.push(Case::new(
                "Concat",
                opset.max(7),
                &format!("{axis} since {opset}"),
                operands,
                &[("axis", int(axis))],
            ));
        }
    }
    cases.push(Case::new("Concat", 13, "-2", vec![f(&[2, 3, 2]), g(&[2, 1, 2]), f(&[2, 2, 2])], &[("axis", int(-2))]));
    cases.push(Case::new("Concat", 13, "of one", vec![f(&[2, 3])], &[("axis", int(0))]));
    cases.push(Case::new("Concat", 13, "of i64", vec![ci(&[1, 2]), ci(&[3])], &[("axis", int(0))]));
    cases.push(Case::new(
        "Concat",
        13,
        "with nothing",
        vec![f(&[2, 3]), t(F32, &[2, 0], &[]).c()],
        &[("axis", int(1))],
    ));
    let truth = vec![t(Bool, &[2], &[1.0, 0.0]), t(Bool, &[1], &[1.0])];
    cases.push(Case::new("Concat", 13, "of bool", truth, &[("axis", int(0))]));

    for opset in [9, 11] {
        let x = || vec![f(&[2, 7])];
        let attrs = [("axis", int(1)), ("split", ints(&[1, 4, 2]))];
        cases.push(Case::with_outputs("Split", opset, "lengths", x(), &attrs, 3));
        cases.push(Case::with_outputs("Split", opset, "halves", vec![f(&[4, 3])], &[], 2));
    }
    for opset in [13, 18] {
        let operands = vec![f(&[2, 7]), ci(&[1, 4, 2])];
        cases.push(Case::with_outputs("Split", opset, "lengths", operands, &[("axis", int(-1))], 3));
        let operands = vec![f(&[2, 7]), ci(&[0, 7])];
        cases.push(Case::with_outputs("Split", opset, "nothing", operands, &[("axis", int(1))], 2));
    }
    cases.push(Case::with_outputs("Split", 13, "thirds", vec![f(&[6, 2])], &[], 3));
    let attrs = [("num_outputs", int(3)), ("axis", int(1))];
    cases.push(Case::with_outputs("Split", 18, "uneven", vec![f(&[2, 7])], &attrs, 3));
    cases.push(Case::with_outputs("Split", 18, "even", vec![f(&[2, 6])], &attrs, 3));
}

fn views(cases: &mut Vec<Case>) {
    let x = || f(&[2, 3, 4]);
    for opset in [5, 13, 14, 19, 21] {
        for shape in [&[4, 6][..], &[0, -1], &[-1], &[2, 0, 2, 2], &[1, 24, 1]] {
            let opset = opset.max(7);
            let about = format!("{shape:?} {}", if opset == 7 { "old" } else { "" });
            cases.push(Case::new("Reshape", opset, about.trim(), vec![x(), ci(shape)], &[]));
        }
    }
    cases.push(Case::new("Reshape", 14, "to scalar", vec![f(&[1, 1]), ci(&[])], &[]));
    cases.push(Case::new(
        "Reshape",
        14,
        "allow zero",
        vec![t(F32, &[0, 3], &[]).c(), ci(&[3, 0])],
        &[("allowzero", int(1))],
    ));
    cases.push(Case::new("Reshape", 14, "empty", vec![t(F32, &[0, 3], &[]).c(), ci(&[0, 1, 3])], &[]));
    cases.push(Case::new("Reshape", 14, "of i64", vec![t(I64, &[4], &[1.0, 2.0, 3.0, 4.0]), ci(&[2, 2])], &[]));

    for opset in [9, 11, 13, 21] {
        for axis in [0, 1, 2, 3] {
            cases.push(Case::new("Flatten", opset, &format!("{axis}"), vec![x()], &[("axis", int(axis))]));
        }
    }
    cases.push(Case::new("Flatten", 13, "-1", vec![x()], &[("axis", int(-1))]));
    cases.push(Case::new("Flatten", 13, "default", vec![x()], &[]));

    let thin = || f(&[1, 3, 1, 2]);
    for opset in [9, 11] {
        cases.push(Case::new("Squeeze", opset, "axes", vec![thin()], &[("axes", ints(&[0, 2]))]));
        cases.push(Case::new("Squeeze", opset, "all", vec![thin()], &[]));
        cases.push(Case::new("Unsqueeze", opset, "axes", vec![f(&[2, 3])], &[("axes", ints(&[0, 3]))]));
    }
    cases.push(Case::new("Squeeze", 11, "from the end", vec![thin()], &[("axes", ints(&[-2]))]));
    cases.push(Case::new("Unsqueeze", 11, "from the end", vec![f(&[2, 3])], &[("axes", ints(&[-1]))]));
    for opset in [13, 21] {
        cases.push(Case::new("Squeeze", opset, "axes", vec![thin(), ci(&[0, 2])], &[]));
        cases.push(Case::new("Squeeze", opset, "from the end", vec![thin(), ci(&[-2])], &[]));
        cases.push(Case::new("Squeeze", opset, "all", vec![thin()], &[]));
        cases.push(Case::new("Unsqueeze", opset, "axes", vec![f(&[2, 3]), ci(&[3, 0])], &[]));
        cases.push(Case::new("Unsqueeze", opset, "from the end", vec![f(&[2, 3]), ci(&[-1, -3])], &[]));
        cases.push(Case::new("Unsqueeze", opset, "scalar", vec![cs(1.5), ci(&[0])], &[]));
    }
    for opset in [9, 14, 16, 21] {
        cases.push(Case::new("Identity", opset, "", vec![x()], &[]));
    }
    cases.push(Case::new("Dropout", 9, "", vec![x()], &[("ratio", flt(0.3))]));
    cases.push(Case::new("Dropout", 12, "", vec![x()], &[]));
    cases.push(Case::new("Dropout", 13, "ratio", vec![x(), cs(0.3)], &[("seed", int(3))]));
    cases.push(Case::new("Dropout", 22, "not training", vec![x(), cs(0.3), t(Bool, &[], &[0.0]).c()], &[]));

    for opset in [9, 13, 21] {
        cases.push(Case::new("Transpose", opset, "default", vec![x()], &[]));
        cases.push(Case::new("Transpose", opset, "perm", vec![x()], &[("perm", ints(&[1, 2, 0]))]));
    }
    cases.push(Case::new("Transpose", 13, "heads", vec![f(&[2, 3, 4, 5])], &[("perm", ints(&[0, 2, 1, 3]))]));
    cases.push(Case::new("Transpose", 13, "rank 1", vec![f(&[4])], &[]));
    let whole = t(I64, &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    cases.push(Case::new("Transpose", 13, "of i64", vec![whole], &[("perm", ints(&[1, 0]))]));
    let truth = t(Bool, &[2, 2], &[1.0, 0.0, 1.0, 1.0]);
    cases.push(Case::new("Transpose", 13, "of bool", vec![truth], &[]));

    let block = ("blocksize", int(2));
    for opset in [9, 11, 13] {
        cases.push(Case::new("DepthToSpace", opset, "", vec![f(&[2, 8, 2, 3])], std::slice::from_ref(&block)));
        cases.push(Case::new("SpaceToDepth", opset, "", vec![f(&[2, 3, 4, 6])], std::slice::from_ref(&block)));
    }
    for mode in ["DCR", "CRD"] {
        cases.push(Case::new(
            "DepthToSpace",
            13,
            mode,
            vec![f(&[1, 18, 2, 2])],
            &[("blocksize", int(3)), ("mode", txt(mode))],
        ));
    }

    for (x, shape) in
        [(&[3, 1][..], &[2, 3, 4][..]), (&[2, 3], &[1, 1]), (&[3, 4], &[4]), (&[1], &[3, 2]), (&[2, 3], &[2, 3])]
    {
        let to: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        for opset in [8, 13] {
            cases.push(Case::new("Expand", opset, &format!("{x:?} to {to:?}"), vec![f(x), ci(&to)], &[]));
        }
    }
    cases.push(Case::new("Expand", 13, "scalar", vec![cs(1.5), ci(&[2, 2])], &[]));
    cases.push(Case::new("Expand", 13, "to nothing", vec![f(&[1, 2]), ci(&[0, 2])], &[]));
    cases.push(Case::new("Expand", 13, "of i64", vec![t(I64, &[2, 1], &[5.0, -6.0]), ci(&[2, 3])], &[]));
    cases.push(Case::new("Expand", 13, "of bool", vec![t(Bool, &[2, 1], &[1.0, 0.0]), ci(&[2, 3])], &[]));
    for opset in [6, 13] {
        let opset = opset.max(7);
        cases.push(Case::new("Tile", opset, "", vec![f(&[2, 3]), ci(&[2, 3])], &[]));
    }
    cases.push(Case::new("Tile", 13, "of one", vec![f(&[2]), ci(&[1])], &[]));
    cases.push(Case::new("Tile", 13, "to nothing", vec![f(&[2, 3]), ci(&[0, 1])], &[]));
    cases.push(Case::new("Tile", 13, "of i64", vec![t(I64, &[2], &[1.0, 2.0]), ci(&[3])], &[]));
}

fn picking(cases: &mut Vec<Case>) {
    let index = |shape: &[usize], values: &[f64]| t(I64, shape, values);
    for opset in [9, 11, 13] {
        cases.push(Case::new("Gather", opset, "rows", vec![f(&[4, 3]), index(&[3], &[2.0, 0.0, 2.0])], &[]));
        let operands = vec![f(&[2, 4, 3]), index(&[2, 2], &[3.0, 0.0, 1.0, 3.0])];
        cases.push(Case::new("Gather", opset, "axis", operands, &[("axis", int(1))]));
    }
    cases.push(Case::new("Gather", 13, "negative", vec![f(&[4, 3]), index(&[3], &[-1.0, 0.0, -4.0])], &[]));
    cases.push(Case::new(
        "Gather",
        13,
        "negative axis",
        vec![f(&[2, 4]), index(&[2], &[1.0, -1.0])],
        &[("axis", int(-1))],
    ));
    cases.push(Case::new("Gather", 13, "one", vec![f(&[4, 3]), index(&[], &[2.0]).c()], &[]));
    cases.push(Case::new("Gather", 13, "last", vec![f(&[4, 3]), index(&[], &[-1.0]).c()], &[("axis", int(1))]));
    cases.push(Case::new(
        "Gather",
        13,
        "one in a list",
        vec![f(&[4, 3]), index(&[1], &[2.0]).c()],
        &[("axis", int(1))],
    ));
    cases.push(Case::new("Gather", 13, "one in a table", vec![f(&[4, 3]), index(&[1, 1], &[-2.0]).c()], &[]));
    cases.push(Case::new("Gather", 13, "by i32", vec![f(&[4, 3]), t(I32, &[2], &[2.0, -3.0])], &[]));
    cases.push(Case::new("Gather", 13, "nothing", vec![f(&[4, 3]), index(&[0], &[]).c()], &[]));
    let table = index(&[4], &[5.0, -6.0, 7.0, 8.0]);
    cases.push(Case::new("Gather", 13, "of i64", vec![table, index(&[2], &[3.0, 1.0])], &[]));
    cases.push(Case::new(
        "Gather",
        13,
        "of bool",
        vec![t(Bool, &[3], &[1.0, 0.0, 0.0]), index(&[2], &[0.0, 1.0])],
        &[],
    ));

    let attrs = [("starts", ints(&[1, 0])), ("ends", ints(&[3, 1000])), ("axes", ints(&[0, 2]))];
    cases.push(Case::new("Slice", 9, "axes", vec![f(&[4, 3, 5])], &attrs));
    let attrs = [("starts", ints(&[-3, 1])), ("ends", ints(&[-1, i64::MAX]))];
    cases.push(Case::new("Slice", 9, "default axes", vec![f(&[4, 3, 5])], &attrs));
    for opset in [10, 11, 13] {
        let mut slice = |about: &str, starts: &[i64], ends: &[i64], axes: Option<&[i64]>, steps: Option<&[i64]>| {
            let mut operands = vec![f(&[4, 3, 5]), ci(starts), ci(ends)];
            if axes.is_some() || steps.is_some() {
                operands.push(axes.map_or(no(), ci));
            }
            operands.extend(steps.map(ci));
            cases.push(Case::new("Slice", opset, about, operands, &[]));
        };
        slice("plain", &[1, 0, 2], &[3, 2, 5], None, None);
        slice("few", &[1], &[3], None, None);
        slice("axes", &[1, 2], &[3, 4], Some(&[0, 2]), None);
        slice("negative axes", &[1, 0], &[3, 2], Some(&[-1, -2]), None);
        slice("negative ends", &[-4, -2], &[-1, 1000], Some(&[2, 0]), None);
        slice("steps", &[0, 1], &[4, 5], Some(&[0, 2]), Some(&[2, 3]));
        slice("backwards", &[3, 4], &[0, -6], Some(&[0, 2]), Some(&[-1, -2]));
        slice("all backwards", &[-1], &[i64::MIN], Some(&[2]), Some(&[-1]));
        slice("from beyond", &[1000], &[-1000], Some(&[2]), Some(&[-2]));
        slice("to beyond", &[-1000], &[i64::MAX], Some(&[2]), Some(&[2]));
        slice("nothing", &[3], &[1], Some(&[2]), None);
        slice("nothing beyond", &[1000], &[2000], Some(&[2]), None);
        slice("default axes with steps", &[0, 2, 4], &[4, 0, 1], None, Some(&[3, -1, -2]));
        slice("everything", &[0], &[i64::MAX], Some(&[1]), None);
    }
    let by = |values: &[f64]| t(I32, &[values.len()], values).c();
    let operands = vec![f(&[4, 3]), by(&[1.0]), by(&[3.0]), by(&[0.0]), by(&[1.0])];
    cases.push(Case::new("Slice", 13, "by i32", operands, &[]));
    let whole = t(I64, &[5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    cases.push(Case::new("Slice", 13, "of i64", vec![whole, ci(&[4]), ci(&[0]), ci(&[0]), ci(&[-2])], &[]));

    let truth = || t(Bool, &[2, 3], &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    for opset in [9, 16] {
        cases.push(Case::new("Where", opset, "", vec![truth(), f(&[2, 3]), g(&[2, 3])], &[]));
        cases.push(Case::new("Where", opset, "broadcast", vec![truth(), f(&[3]), g(&[2, 1])], &[]));
    }
    cases.push(Case::new("Where", 16, "higher rank", vec![truth(), f(&[4, 1, 3]), cs(0.0)], &[]));
    cases.push(Case::new("Where", 16, "by one", vec![t(Bool, &[1], &[1.0]), f(&[2, 3]), cs(-1.0)], &[]));
    for dtype in [I64, I32, F64, U8, Bool] {
        let operands = vec![truth(), t(dtype, &[3], &[1.0, 0.0, 1.0]), t(dtype, &[2, 1], &[0.0, 1.0])];
        cases.push(Case::new("Where", 16, &format!("of {dtype}"), operands, &[]));
    }
}

fn padding(cases: &mut Vec<Case>) {
    for mode in ["constant", "reflect", "edge"] {
        let pads = [0, 1, 2, 0, 2, 1];
        let attrs = [("mode", txt(mode)), ("pads", ints(&pads))];
        cases.push(Case::new("Pad", 9, mode, vec![f(&[2, 3, 4])], &attrs));
        for opset in [11, 13, 18, 19, 21] {
            let attrs = [("mode", txt(mode))];
            cases.push(Case::new("Pad", opset, mode, vec![f(&[2, 3, 4]), ci(&pads)], &attrs));
            let operands = vec![f(&[2, 5, 4]), ci(&[0, -1, 1, 0, -2, 1])];
            cases.push(Case::new("Pad", opset, &format!("{mode} cut"), operands, &attrs));
        }
        let operands = vec![f(&[2, 3, 4]), ci(&[1, 2, 2, 0]), no(), ci(&[-1, 1])];
        cases.push(Case::new("Pad", 18, &format!("{mode} axes"), operands, &[("mode", txt(mode))]));
    }
    for opset in [19, 21] {
        let operands = vec![f(&[2, 3, 4]), ci(&[0, 1, 2, 0, 2, 1])];
        cases.push(Case::new("Pad", opset, "wrap", operands, &[("mode", txt("wrap"))]));
        let operands = vec![f(&[2, 3]), ci(&[0, 4, 0, 7])];
        cases.push(Case::new("Pad", opset, "wrap twice", operands, &[("mode", txt("wrap"))]));
    }
    cases.push(Case::new("Pad", 9, "value", vec![f(&[2, 3])], &[("pads", ints(&[1, 0, 0, 2])), ("value", flt(-1.5))]));
    cases.push(Case::new("Pad", 13, "value", vec![f(&[2, 3]), ci(&[1, 0, 0, 2]), cs(2.5)], &[]));
    cases.push(Case::new("Pad", 13, "nothing", vec![f(&[2, 3]), ci(&[0, 0, 0, 0])], &[]));
    cases.push(Case::new("Pad", 13, "edge twice", vec![f(&[2, 3]), ci(&[0, 4, 0, 5])], &[("mode", txt("edge"))]));
    let whole = || t(I64, &[3], &[5.0, -6.0, 7.0]);
    cases.push(Case::new("Pad", 13, "of i64", vec![whole(), ci(&[2, 1]), t(I64, &[], &[9.0]).c()], &[]));
    for mode in ["reflect", "edge"] {
        cases.push(Case::new("Pad", 13, &format!("{mode} of i64"), vec![whole(), ci(&[2, 1])], &[("mode", txt(mode))]));
    }
    let fine = t(F64, &[3], &[0.5, -0.25, 0.75]);
    cases.push(Case::new("Pad", 13, "reflect of f64", vec![fine.clone(), ci(&[2, 1])], &[("mode", txt("reflect"))]));
    cases.push(Case::new("Pad", 13, "of f64", vec![fine, ci(&[2, 1])], &[]));
    cases.push(Case::new("Pad", 13, "of bool", vec![t(Bool, &[2], &[1.0, 1.0]), ci(&[1, 1])], &[]));
}

/// Shape arithmetic as exporters write it.
fn chains(cases: &mut Vec<Case>) {
    let x = || ("x", f(&[2, 3, 4]));
    let flatten = vec![
        node("Shape", &["x"], &["shape"], &[]),
        node("Gather", &["shape", "zero"], &["batch"], &[]),
        node("Unsqueeze", &["batch", "axis"], &["list"], &[]),
        node("Concat", &["list", "rest"], &["to"], &[("axis", int(0))]),
        node("Reshape", &["x", "to"], &["y"], &[]),
    ];
    let operands = vec![x(), ("zero", t(I64, &[], &[0.0]).c()), ("axis", ci(&[0])), ("rest", ci(&[-1]))];
    cases.push(Case::chain("flatten", 13, operands, flatten));

    let mask = vec![
        node("Shape", &["x"], &["shape"], &[]),
        node("Slice", &["shape", "one", "three"], &["last"], &[]),
        node("ConstantOfShape", &["last"], &["ones"], &[("value", Value::Tensor(Tensor::new(F32, &[1], &[1.0])))]),
        node("Mul", &["x", "ones"], &["y"], &[]),
    ];
    cases.push(Case::chain("mask", 13, vec![x(), ("one", ci(&[1])), ("three", ci(&[3]))], mask));

    let positions = vec![
        node("Shape", &["x"], &["shape"], &[]),
        node("Gather", &["shape", "last"], &["width"], &[]),
        node("Range", &["zero", "width", "one"], &["positions"], &[]),
        node("Cast", &["positions"], &["real"], &[("to", int(1))]),
        node("Reshape", &["real", "column"], &["wide"], &[]),
        node("Add", &["x", "wide"], &["y"], &[]),
    ];
    let scalar = |v: f64| t(I64, &[], &[v]).c();
    let operands =
        vec![x(), ("last", scalar(-1.0)), ("zero", scalar(0.0)), ("one", scalar(1.0)), ("column", ci(&[1, 1, -1]))];
    cases.push(Case::chain("positions", 13, operands, positions));

    let expand = vec![
        node("Shape", &["x"], &["shape"], &[]),
        node("Equal", &["wanted", "minus"], &["open"], &[]),
        node("Where", &["open", "ones", "wanted"], &["to"], &[]),
        node("Expand", &["y0", "to"], &["y1"], &[]),
        node("Add", &["x", "y1"], &["y"], &[]),
    ];
    let operands = vec![
        x(),
        ("wanted", ci(&[2, -1, 4])),
        ("minus", ci(&[-1, -1, -1])),
        ("ones", ci(&[1, 1, 1])),
        ("y0", g(&[3, 1])),
    ];
    cases.push(Case::chain("expand", 13, operands, expand));

    let halves = vec![
        node("Shape", &["x"], &["shape"], &[]),
        node("Gather", &["shape", "last"], &["width"], &[]),
        node("Div", &["width", "two"], &["half"], &[]),
        node("Unsqueeze", &["half", "axis"], &["at"], &[]),
        node("Slice", &["x", "start", "at", "last_axis"], &["left"], &[]),
        node("Slice", &["x", "at", "end", "last_axis"], &["right"], &[]),
        node("Mul", &["left", "right"], &["y"], &[]),
    ];
    let operands = vec![
        x(),
        ("last", scalar(2.0)),
        ("two", scalar(2.0)),
        ("axis", ci(&[0])),
        ("start", ci(&[0])),
        ("end", ci(&[i64::MAX])),
        ("last_axis", ci(&[-1])),
    ];
    cases.push(Case::chain("halves", 13, operands, halves));

    let resize = vec![
        node("Shape", &["x"], &["shape"], &[]),
        node("Slice", &["shape", "start", "two"], &["front"], &[]),
        node("Concat", &["front", "sizes"], &["to"], &[("axis", int(0))]),
        node("Resize", &["x", "", "", "to"], &["y"], &[("mode", txt("nearest"))]),
    ];
    let operands = vec![("x", f(&[1, 2, 3, 4])), ("start", ci(&[0])), ("two", ci(&[2])), ("sizes", ci(&[6, 8]))];
    cases.push(Case::chain("resize", 13, operands, resize));
}
