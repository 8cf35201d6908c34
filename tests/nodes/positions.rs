//! Reading and writing at positions, order along an axis, sums so far, diagonals.

use super::*;

pub(super) fn add(cases: &mut Vec<Case>) {
    gather(cases);
    scatter(cases);
    order(cases);
    rest(cases);
}

/// Integers as data.
fn i(shape: &[usize], values: &[i64]) -> Operand {
    t(I64, shape, &values.iter().map(|v| *v as f64).collect::<Vec<_>>())
}

fn gather(cases: &mut Vec<Case>) {
    for opset in [11, 13] {
        for (axis, shape) in [(0, [2, 3]), (1, [2, 2]), (-1, [1, 5])] {
            let len: usize = shape.iter().product();
            let values: Vec<i64> = (0..len as i64).map(|k| if k % 3 == 2 { -1 } else { k % 2 }).collect();
            let operands = vec![f(&[2, 3]), i(&shape, &values)];
            cases.push(Case::new("GatherElements", opset, &format!("axis {axis}"), operands, &[("axis", int(axis))]));
        }
        let rows = |shape: &[usize], values: &[i64]| vec![f(&[2, 3, 4]), i(shape, values)];
        cases.push(Case::new("GatherND", opset, "elements", rows(&[2, 3], &[0, 1, 2, 1, -1, 0]), &[]));
        cases.push(Case::new("GatherND", opset, "slices", rows(&[3, 1], &[0, 1, -1]), &[]));
        cases.push(Case::new("GatherND", opset, "grid", rows(&[2, 2, 2], &[0, 1, 1, 2, 0, 0, -1, -1]), &[]));
    }
    for (batch, shape) in [(1, [2, 1]), (1, [2, 2])] {
        let values: Vec<i64> = (0..shape[0] * shape[1]).map(|k| k as i64 % 3).collect();
        let operands = vec![f(&[2, 3, 4]), i(&[shape[0], shape[1]], &values)];
        cases.push(Case::new("GatherND", 12, &format!("batch {shape:?}"), operands, &[("batch_dims", int(batch))]));
    }
    let ints = vec![t(I64, &[4], &[5.0, 6.0, 7.0, 8.0]), i(&[3], &[3, 0, -2])];
    cases.push(Case::new("GatherElements", 13, "of i64", ints, &[]));
}

fn scatter(cases: &mut Vec<Case>) {
    for (op, opset) in [("Scatter", 9), ("ScatterElements", 11), ("ScatterElements", 13)] {
        for axis in [0, 1, -1] {
            let operands = vec![f(&[3, 4]), i(&[2, 2], &[1, 0, 2, -1]), g(&[2, 2])];
            cases.push(Case::new(op, opset, &format!("axis {axis}"), operands, &[("axis", int(axis))]));
        }
    }
    for opset in [16, 18] {
        for reduction in ["add", "mul", "max", "min"] {
            // The second and the last update meet at one place; `max` and `min` came with version 18.
            if opset == 16 && reduction.starts_with('m') && reduction != "mul" {
                continue;
            }
            let index = i(&[4, 1], &[1, 0, 2, 0]).c();
            let operands = vec![f(&[3, 1]), index, g(&[4, 1])];
            let attrs = [("axis", int(0)), ("reduction", txt(reduction))];
            cases.push(Case::new("ScatterElements", opset, reduction, operands, &attrs));
            let operands = vec![f(&[3, 2]), i(&[4, 1], &[1, 0, 2, 0]).c(), g(&[4, 2])];
            cases.push(Case::new("ScatterND", opset, reduction, operands, &[("reduction", txt(reduction))]));
        }
    }
    for opset in [11, 13, 16] {
        cases.push(Case::new(
            "ScatterND",
            opset,
            "slices",
            vec![f(&[3, 2, 2]), i(&[2, 1], &[2, 0]), g(&[2, 2, 2])],
            &[],
        ));
        let operands = vec![f(&[3, 4]), i(&[2, 2], &[0, 1, -1, 3]), g(&[2])];
        cases.push(Case::new("ScatterND", opset, "elements", operands, &[]));
    }
    let flags = vec![t(Bool, &[3], &[1.0, 0.0, 1.0]), i(&[1, 1], &[2]).c(), t(Bool, &[1], &[0.0])];
    cases.push(Case::new("ScatterND", 13, "of bool", flags, &[]));
    for axis in [-1, 0, 1] {
        let operands = vec![i(&[2, 2], &[0, 2, -1, 9]), t(I64, &[], &[4.0]).c(), fs(&[0.5, 3.0])];
        cases.push(Case::new("OneHot", 11, &format!("axis {axis}"), operands, &[("axis", int(axis))]));
    }
    cases.push(Case::new("OneHot", 9, "", vec![i(&[3], &[0, 1, 2]), t(I64, &[1], &[3.0]).c(), fs(&[0.0, 1.0])], &[]));
    let keep = || t(Bool, &[3], &[1.0, 0.0, 1.0]).c();
    for opset in [9, 11] {
        cases.push(Case::new("Compress", opset, "flat", vec![f(&[2, 3]), keep()], &[]));
        cases.push(Case::new("Compress", opset, "axis", vec![f(&[2, 3]), keep()], &[("axis", int(1))]));
    }
    for opset in [9, 13] {
        let x = t(I64, &[2, 3], &[0.0, 2.0, 0.0, -1.0, 0.0, 3.0]).c();
        cases.push(Case::new("NonZero", opset, "", vec![x], &[]));
    }
    cases.push(Case::new("NonZero", 13, "of bool", vec![t(Bool, &[4], &[0.0, 1.0, 1.0, 0.0]).c()], &[]));
    let operands = || vec![f(&[4, 3, 2]), ci(&[4, 2, 1])];
    cases.push(Case::new("ReverseSequence", 10, "", operands(), &[]));
    let turned = vec![f(&[3, 4, 2]), ci(&[4, 2, 1])];
    let attrs = [("batch_axis", int(0)), ("time_axis", int(1))];
    cases.push(Case::new("ReverseSequence", 10, "axes", turned, &attrs));
}

fn order(cases: &mut Vec<Case>) {
    let ties = || t(F32, &[2, 4], &[1.0, 3.0, 3.0, 2.0, 5.0, 0.0, 5.0, 5.0]);
    for op in ["ArgMax", "ArgMin"] {
        for opset in [11, 12, 13] {
            for axis in [0, 1, -1] {
                for keep in [0, 1] {
                    let attrs = [("axis", int(axis)), ("keepdims", int(keep))];
                    cases.push(Case::new(op, opset, &format!("axis {axis} keep {keep}"), vec![ties()], &attrs));
                }
            }
        }
        let attrs = [("axis", int(1)), ("select_last_index", int(1))];
        cases.push(Case::new(op, 13, "last", vec![ties()], &attrs));
        cases.push(Case::new(op, 13, "of i32", vec![t(I32, &[3], &[2.0, 7.0, 7.0])], &[]));
    }
    for opset in [11, 24] {
        for (axis, k) in [(0, 1), (-1, 3), (1, 4)] {
            for largest in [0, 1] {
                let name = format!("axis {axis} k {k} largest {largest}");
                let attrs = [("axis", int(axis)), ("largest", int(largest))];
                cases.push(Case::with_outputs("TopK", opset, &name, vec![ties(), ci(&[k])], &attrs, 2));
            }
        }
    }
    cases.push(Case::with_outputs("TopK", 10, "", vec![f(&[3, 5]), ci(&[2])], &[], 2));
    cases.push(Case::with_outputs("TopK", 1, "", vec![f(&[3, 5])], &[("k", int(2))], 2));
    for opset in [11, 13] {
        cases.push(Case::new("Hardmax", opset, "", vec![f(&[2, 3, 4])], &[]));
        cases.push(Case::new("Hardmax", opset, "axis 1", vec![f(&[2, 3, 4])], &[("axis", int(1))]));
    }
}

fn rest(cases: &mut Vec<Case>) {
    for (opset, axis) in [(11, 0), (14, 1), (14, -1)] {
        for (exclusive, reverse) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let attrs = [("exclusive", int(exclusive)), ("reverse", int(reverse))];
            let at = || t(I64, &[], &[f64::from(axis)]).c();
            let name = format!("axis {axis} {exclusive} {reverse}");
            cases.push(Case::new("CumSum", opset, &name, vec![f(&[3, 5]), at()], &attrs));
            if opset == 14 {
                cases.push(Case::new("CumProd", 26, &name, vec![p(&[3, 5]), at()], &attrs));
            }
        }
    }
    cases.push(Case::new("CumSum", 14, "of i64", vec![t(I64, &[4], &[1.0, 2.0, 3.0, 4.0]), cs0(0)], &[]));
    for upper in [0, 1] {
        for k in [-1, 0, 2] {
            let name = format!("upper {upper} k {k}");
            cases.push(Case::new("Trilu", 14, &name, vec![f(&[2, 3, 4]), cs0(k)], &[("upper", int(upper))]));
        }
        cases.push(Case::new(
            "Trilu",
            14,
            &format!("upper {upper}"),
            vec![t(I64, &[2, 2], &[1.0, 2.0, 3.0, 4.0])],
            &[("upper", int(upper))],
        ));
    }
    for opset in [9, 22] {
        for k in [-1, 0, 1] {
            cases.push(Case::new("EyeLike", opset, &format!("k {k}"), vec![f(&[3, 4])], &[("k", int(k))]));
        }
        cases.push(Case::new("EyeLike", opset, "dtype", vec![f(&[2, 2])], &[("dtype", int(7))]));
    }
}

/// A constant integer of rank 0.
fn cs0(value: i64) -> Operand {
    t(I64, &[], &[value as f64]).c()
}
