//! Elementwise functions, casts, products and reductions.

use super::*;

/// Values at which elementwise functions are apt to go wrong.
const EDGES: [f64; 14] = [-100.0, -20.0, -5.0, -3.0, -2.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5, 6.0, 100.0];

pub(super) fn add(cases: &mut Vec<Case>) {
    unary(cases);
    binary(cases);
    bits(cases);
    casts(cases);
    clip(cases);
    products(cases);
    reductions(cases);
}

fn unary(cases: &mut Vec<Case>) {
    let plain: [(&str, &[i64]); 22] = [
        ("Abs", &[9, 13]),
        ("Ceil", &[9, 13]),
        ("Cos", &[7, 22]),
        ("Elu", &[9, 22]),
        ("Erf", &[9, 13]),
        ("Exp", &[9, 13]),
        ("Floor", &[9, 13]),
        ("Gelu", &[20]),
        ("HardSigmoid", &[9, 22]),
        ("HardSwish", &[14, 22]),
        ("LeakyRelu", &[9, 16]),
        ("Mish", &[18, 22]),
        ("Neg", &[9, 13]),
        ("Relu", &[9, 13, 14]),
        ("Round", &[11, 22]),
        ("Sigmoid", &[9, 13]),
        ("Sign", &[9, 13]),
        ("Sin", &[7, 22]),
        ("Softplus", &[9, 22]),
        ("Softsign", &[9, 22]),
        ("Tan", &[7, 22]),
        ("Tanh", &[9, 13]),
    ];
    for (op, opsets) in plain {
        for &opset in opsets {
            cases.push(Case::new(op, opset, "", vec![f(&[2, 3, 4])], &[]));
        }
        let newest = opsets[opsets.len() - 1];
        cases.push(Case::new(op, newest, "edges", vec![fs(&EDGES)], &[]));
        cases.push(Case::new(op, newest, "scalar", vec![cs(0.75)], &[]));
        cases.push(Case::new(op, newest, "empty", vec![t(F32, &[0, 3], &[]).c()], &[]));
    }
    let inverse: [(&str, &[i64], &[f64]); 11] = [
        ("Acos", &[7, 22], &[-1.0, -0.5, 0.0, 0.9, 1.0]),
        ("Acosh", &[9, 22], &[1.0, 1.5, 20.0]),
        ("Asin", &[7, 22], &[-1.0, -0.5, 0.0, 0.9, 1.0]),
        ("Asinh", &[9, 22], &[-20.0, -1.0, 0.0, 0.5, 3.0]),
        ("Atan", &[7, 22], &EDGES),
        ("Atanh", &[9, 22], &[-0.99, -0.5, 0.0, 0.3, 0.9]),
        ("Celu", &[12], &EDGES),
        ("Cosh", &[9, 22], &[-5.0, 0.0, 2.0]),
        ("Selu", &[6, 22], &EDGES),
        ("Sinh", &[9, 22], &[-5.0, 0.0, 2.0]),
        ("ThresholdedRelu", &[10, 22], &EDGES),
    ];
    for (op, opsets, values) in inverse {
        for &opset in opsets {
            cases.push(Case::new(op, opset, "", vec![fs(values)], &[]));
        }
    }
    for op in ["Celu", "Selu", "ThresholdedRelu"] {
        cases.push(Case::new(op, 12, "alpha", vec![fs(&EDGES)], &[("alpha", flt(0.3))]));
    }
    cases.push(Case::new("Selu", 6, "gamma", vec![fs(&EDGES)], &[("gamma", flt(2.5))]));
    cases.push(Case::new("Shrink", 9, "", vec![fs(&EDGES)], &[]));
    cases.push(Case::new("Shrink", 9, "bias", vec![fs(&EDGES)], &[("bias", flt(0.4)), ("lambd", flt(1.2))]));
    for slope in [&[4][..], &[3, 1], &[1], &[2, 3, 4]] {
        cases.push(Case::new("PRelu", 9, &format!("{slope:?}"), vec![f(&[2, 3, 4]), g(slope)], &[]));
        cases.push(Case::new("PRelu", 16, &format!("{slope:?}"), vec![f(&[2, 3, 4]), g(slope)], &[]));
    }
    for opset in [9, 13, 20] {
        cases.push(Case::new("IsNaN", opset, "", vec![fs(&[0.0, f64::NAN, f64::INFINITY, -1.0])], &[]));
    }
    for opset in [10, 20] {
        for (negative, positive) in [(1, 1), (0, 1), (1, 0), (0, 0)] {
            let x = fs(&[0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
            let attrs = [("detect_negative", int(negative)), ("detect_positive", int(positive))];
            cases.push(Case::new("IsInf", opset, &format!("{negative} {positive}"), vec![x], &attrs));
        }
    }
    cases.push(Case::new("Swish", 24, "", vec![fs(&EDGES)], &[]));
    cases.push(Case::new("Swish", 24, "alpha", vec![fs(&EDGES)], &[("alpha", flt(1.702))]));
    cases.push(Case::new("SwiGLU", 28, "", vec![f(&[2, 3]), g(&[2, 3])], &[]));
    for op in ["Log", "Sqrt", "Reciprocal"] {
        for opset in [9, 13] {
            cases.push(Case::new(op, opset, "", vec![p(&[3, 5])], &[]));
        }
        cases.push(Case::new(op, 13, "edges", vec![fs(&[0.0, 1.0, 1e-6, 1e6])], &[]));
    }
    for op in ["Abs", "Neg", "Sign"] {
        for dtype in [F64, I64, I32] {
            let x = t(dtype, &[5], &[-7.0, -1.0, 0.0, 3.0, 100.0]);
            cases.push(Case::new(op, 13, &format!("of {dtype}"), vec![x], &[]));
        }
    }
    for op in ["Exp", "Sqrt", "Sigmoid", "Tanh", "Floor", "Reciprocal", "Log", "Relu"] {
        cases.push(Case::new(op, 14, "of f64", vec![t(F64, &[4], &[0.25, 0.5, 1.0, 2.75])], &[]));
    }
    cases.push(Case::new("Relu", 14, "of i32", vec![t(I32, &[3], &[-2.0, 0.0, 5.0])], &[]));
    cases.push(Case::new("Abs", 13, "of f16", vec![t(F16, &[3], &[-2.5, 0.25, 5.0])], &[]));
    cases.push(Case::new("Sigmoid", 13, "of f16", vec![t(F16, &[3], &[-2.5, 0.25, 5.0])], &[]));
    cases.push(Case::new("Not", 7, "", vec![t(Bool, &[2, 2], &[0.0, 1.0, 1.0, 0.0])], &[]));
    cases.push(Case::new("Elu", 22, "alpha", vec![fs(&EDGES)], &[("alpha", flt(2.5))]));
    cases.push(Case::new("LeakyRelu", 16, "alpha", vec![fs(&EDGES)], &[("alpha", flt(0.3))]));
    let slope = [("alpha", flt(0.4)), ("beta", flt(0.1))];
    cases.push(Case::new("HardSigmoid", 22, "alpha beta", vec![fs(&EDGES)], &slope));
    cases.push(Case::new("Gelu", 20, "tanh", vec![fs(&EDGES)], &[("approximate", txt("tanh"))]));
    cases.push(Case::new("Gelu", 20, "none", vec![fs(&EDGES)], &[("approximate", txt("none"))]));
}

fn bits(cases: &mut Vec<Case>) {
    let ints = |dtype| t(dtype, &[2, 3], &[0.0, 1.0, 5.0, 77.0, 100.0, 127.0]);
    for dtype in [I8, I16, I32, I64, U8, U16, U32, U64] {
        for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"] {
            let other = t(dtype, &[3], &[1.0, 6.0, 99.0]);
            cases.push(Case::new(op, 18, &format!("of {dtype}"), vec![ints(dtype), other], &[]));
        }
        cases.push(Case::new("BitwiseNot", 18, &format!("of {dtype}"), vec![ints(dtype)], &[]));
    }
    for dtype in [U8, U32, U64] {
        for direction in ["LEFT", "RIGHT"] {
            let by = t(dtype, &[3], &[0.0, 1.0, 7.0]);
            let name = format!("{direction} of {dtype}");
            cases.push(Case::new("BitShift", 11, &name, vec![ints(dtype), by], &[("direction", txt(direction))]));
        }
    }
    // Narrow integers wrap.
    for dtype in [I8, U8, I16, U16] {
        for op in ["Add", "Sub", "Mul"] {
            let (a, b) = (t(dtype, &[4], &[100.0, 127.0, 3.0, 0.0]), t(dtype, &[4], &[100.0, 2.0, 5.0, 1.0]));
            cases.push(Case::new(op, 14, &format!("wraps in {dtype}"), vec![a, b], &[]));
        }
    }
}

fn binary(cases: &mut Vec<Case>) {
    for op in ["Add", "Sub", "Mul", "Div"] {
        for opset in [7, 13, 14] {
            cases.push(Case::new(op, opset, "", vec![f(&[2, 3]), p(&[2, 3])], &[]));
        }
        cases.push(Case::new(op, 14, "broadcast", vec![f(&[2, 3, 4]), p(&[3, 1])], &[]));
        cases.push(Case::new(op, 14, "broadcast left", vec![f(&[4]), p(&[2, 3, 4])], &[]));
        cases.push(Case::new(op, 14, "broadcast both", vec![f(&[2, 1, 4]), p(&[3, 1])], &[]));
        cases.push(Case::new(op, 14, "scalar", vec![f(&[2, 3]), cs(1.5)], &[]));
        cases.push(Case::new(op, 14, "scalars", vec![cs(2.5), cs(1.5)], &[]));
        cases.push(Case::new(op, 14, "empty", vec![t(F32, &[0, 3], &[]).c(), f(&[3])], &[]));
        for dtype in [F64, I64, I32] {
            let a = t(dtype, &[5], &[-7.0, -6.0, 0.0, 7.0, 100.0]);
            let b = t(dtype, &[5], &[2.0, -4.0, 5.0, -2.0, 3.0]);
            cases.push(Case::new(op, 14, &format!("of {dtype}"), vec![a, b], &[]));
        }
    }
    for (op, opsets) in [
        ("Equal", [11, 19]),
        ("Greater", [9, 13]),
        ("Less", [9, 13]),
        ("GreaterOrEqual", [12, 16]),
        ("LessOrEqual", [12, 16]),
    ] {
        let (a, b) = (fs(&[1.0, 2.0, 3.0]), t(F32, &[2, 1], &[2.0, 3.0]));
        for opset in opsets {
            cases.push(Case::new(op, opset, "", vec![a.clone(), b.clone()], &[]));
        }
        for dtype in [F64, I64, I32] {
            let a = t(dtype, &[3], &[-1.0, 2.0, 3.0]);
            let b = t(dtype, &[3], &[1.0, 2.0, -3.0]);
            cases.push(Case::new(op, opsets[1], &format!("of {dtype}"), vec![a, b], &[]));
        }
    }
    let truth = |shape: &[usize], values: &[f64]| t(Bool, shape, values);
    for op in ["And", "Or", "Xor"] {
        let operands = vec![truth(&[2, 2], &[0.0, 0.0, 1.0, 1.0]), truth(&[2], &[0.0, 1.0])];
        cases.push(Case::new(op, 7, "", operands, &[]));
    }
    let operands = vec![truth(&[4], &[0.0, 0.0, 1.0, 1.0]), truth(&[4], &[0.0, 1.0, 0.0, 1.0])];
    cases.push(Case::new("Equal", 13, "of bool", operands, &[]));

    for opset in [7, 12, 13, 15] {
        cases.push(Case::new("Pow", opset, "", vec![p(&[2, 3]), f(&[3])], &[]));
    }
    let signed = fs(&[-2.0, -1.5, 0.0, 1.5, 3.0]);
    for exponent in [0.0, 0.5, 1.0, 2.0, 3.0, -1.0] {
        let about = format!("to the {exponent}");
        cases.push(Case::new("Pow", 15, &about, vec![signed.clone(), cs(exponent)], &[]));
    }
    let whole = |dtype| t(dtype, &[3], &[-2.0, 3.0, 5.0]);
    let powers = |dtype| t(dtype, &[3], &[2.0, 3.0, 0.0]);
    for (base, exponent) in
        [(F32, I64), (F32, I32), (I64, I64), (I32, I32), (I64, F32), (I32, F32), (F64, F32), (F64, F64)]
    {
        let about = format!("{base} to the {exponent}");
        cases.push(Case::new("Pow", 15, &about, vec![whole(base), powers(exponent)], &[]));
    }

    for opset in [10, 13] {
        for dtype in [I64, I32] {
            let operands = || {
                let a = t(dtype, &[6], &[-4.0, 7.0, 5.0, 4.0, -7.0, 8.0]);
                vec![a, t(dtype, &[6], &[2.0, -3.0, 8.0, -2.0, 3.0, 5.0])]
            };
            cases.push(Case::new("Mod", opset, &format!("of {dtype}"), operands(), &[]));
            cases.push(Case::new("Mod", opset, &format!("fmod of {dtype}"), operands(), &[("fmod", int(1))]));
        }
        let operands = vec![fs(&[-4.3, 7.2, 5.0, 4.3, -7.2, 8.0]), fs(&[2.1, -3.4, 8.0, -2.1, 3.4, 5.0])];
        cases.push(Case::new("Mod", opset, "fmod of f32", operands, &[("fmod", int(1))]));
    }
    let unsigned = vec![t(U8, &[3], &[7.0, 9.0, 200.0]), t(U8, &[3], &[4.0, 3.0, 7.0])];
    cases.push(Case::new("Mod", 13, "of u8", unsigned, &[]));

    for op in ["Max", "Min", "Mean", "Sum"] {
        for opset in [8, 13] {
            cases.push(Case::new(op, opset, "of two", vec![f(&[2, 3]), g(&[2, 3])], &[]));
        }
        cases.push(Case::new(op, 13, "of one", vec![f(&[2, 3])], &[]));
        cases.push(Case::new(op, 13, "of three", vec![f(&[2, 3]), g(&[3]), f(&[2, 1])], &[]));
        cases.push(Case::new(op, 13, "with a scalar", vec![f(&[2, 3]), cs(0.5)], &[]));
    }
    for op in ["Max", "Min"] {
        for dtype in [F64, I64, I32] {
            let operands = vec![t(dtype, &[3], &[-1.0, 5.0, 2.0]), t(dtype, &[3], &[1.0, 4.0, 2.0])];
            cases.push(Case::new(op, 13, &format!("of {dtype}"), operands, &[]));
        }
    }
    for op in ["Mean", "Sum"] {
        let operands = vec![t(F64, &[3], &[-1.0, 5.0, 2.0]), t(F64, &[3], &[1.0, 4.0, 2.0])];
        cases.push(Case::new(op, 13, "of f64", operands, &[]));
    }
}

fn casts(cases: &mut Vec<Case>) {
    let values = |dtype: OracleType| -> Vec<f64> {
        match dtype {
            F32 | F64 | F16 | BF16 => vec![0.0, 0.25, 1.0, 2.75, 3.5, 100.0],
            Bool => vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.0],
            _ => vec![0.0, 1.0, 2.0, 3.0, 100.0, 7.0],
        }
    };
    for &from in OracleType::ALL {
        for &to in OracleType::ALL {
            let x = t(from, &[2, 3], &values(from));
            cases.push(Case::new("Cast", 13, &format!("{from} to {to}"), vec![x], &[("to", int(to.onnx().into()))]));
        }
    }
    for opset in [9, 19, 21] {
        cases.push(Case::new("Cast", opset, "to i64", vec![f(&[2, 3])], &[("to", int(7))]));
    }
    for (from, to) in [(F32, I64), (F32, I32), (F64, I64), (I64, F32), (I32, F64), (F32, Bool), (I64, Bool)] {
        let x = t(from, &[6], &[-100.0, -2.75, -1.0, -0.5, 0.75, 5.0]);
        let about = format!("{from} to {to} below zero");
        cases.push(Case::new("Cast", 13, &about, vec![x], &[("to", int(to.onnx().into()))]));
    }
    cases.push(Case::new("Cast", 13, "scalar", vec![cs(2.5)], &[("to", int(7))]));
    cases.push(Case::new("Cast", 13, "empty", vec![t(F32, &[0], &[]).c()], &[("to", int(7))]));
    for (from, like) in [(F32, I64), (I64, F32), (F32, Bool), (Bool, F64), (F16, F32)] {
        for opset in [15, 19] {
            let operands = vec![t(from, &[2], &[0.0, 1.0]), t(like, &[3], &[1.0, 0.0, 1.0])];
            cases.push(Case::new("CastLike", opset, &format!("{from} like {like}"), operands, &[]));
        }
    }
}

fn clip(cases: &mut Vec<Case>) {
    let x = || fs(&EDGES);
    cases.push(Case::new("Clip", 9, "both", vec![x()], &[("min", flt(-1.5)), ("max", flt(2.0))]));
    cases.push(Case::new("Clip", 9, "low", vec![x()], &[("min", flt(-1.5))]));
    cases.push(Case::new("Clip", 9, "high", vec![x()], &[("max", flt(2.0))]));
    cases.push(Case::new("Clip", 9, "neither", vec![x()], &[]));
    for opset in [11, 12, 13] {
        cases.push(Case::new("Clip", opset, "both", vec![x(), cs(-1.5), cs(2.0)], &[]));
        cases.push(Case::new("Clip", opset, "low", vec![x(), cs(-1.5)], &[]));
        cases.push(Case::new("Clip", opset, "high", vec![x(), no(), cs(2.0)], &[]));
        cases.push(Case::new("Clip", opset, "neither", vec![x()], &[]));
    }
    for dtype in [F64, I64, I32] {
        let x = t(dtype, &[4], &[-7.0, 0.0, 3.0, 9.0]);
        let bound = |v: f64| t(dtype, &[], &[v]).c();
        cases.push(Case::new("Clip", 13, &format!("of {dtype}"), vec![x.clone(), bound(-2.0), bound(3.0)], &[]));
        cases.push(Case::new("Clip", 13, &format!("low of {dtype}"), vec![x, bound(-2.0)], &[]));
    }
}

fn products(cases: &mut Vec<Case>) {
    let shapes: [(&[usize], &[usize]); 11] = [
        (&[2, 3], &[3, 4]),
        (&[5, 2, 3], &[3, 4]),
        (&[2, 3], &[5, 3, 4]),
        (&[2, 5, 2, 3], &[5, 3, 4]),
        (&[2, 1, 2, 3], &[4, 3, 2]),
        (&[3], &[3, 4]),
        (&[2, 3], &[3]),
        (&[3], &[3]),
        (&[3], &[2, 3, 4]),
        (&[2, 4, 3], &[3]),
        (&[1, 1], &[1, 7]),
    ];
    for (a, b) in shapes {
        cases.push(Case::new("MatMul", 13, &format!("{a:?} {b:?}"), vec![f(a), g(b)], &[]));
    }
    cases.push(Case::new("MatMul", 9, "", vec![f(&[4, 6]), g(&[6, 5])], &[]));
    cases.push(Case::new(
        "MatMul",
        13,
        "no inner elements",
        vec![t(F32, &[2, 0], &[]).c(), t(F32, &[0, 3], &[]).c()],
        &[],
    ));
    let x = |seed: u64, shape: &[usize]| t(F64, shape, &noise(seed, shape.iter().product()));
    cases.push(Case::new("MatMul", 13, "of f64", vec![x(1, &[2, 3]), x(2, &[3, 2])], &[]));

    for (trans_a, trans_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let a = if trans_a == 1 { f(&[3, 2]) } else { f(&[2, 3]) };
        let b = if trans_b == 1 { g(&[4, 3]) } else { g(&[3, 4]) };
        let turns = [("transA", int(trans_a)), ("transB", int(trans_b))];
        let name = format!("{trans_a}{trans_b}");
        for opset in [7, 9, 11, 13] {
            cases.push(Case::new("Gemm", opset, &name, vec![a.clone(), b.clone(), f(&[4])], &turns));
        }
        let all = [turns.to_vec(), vec![("alpha", flt(0.5)), ("beta", flt(-1.25))]].concat();
        for c in [&[4][..], &[2, 1], &[1, 4], &[1], &[2, 4]] {
            let operands = vec![a.clone(), b.clone(), g(c)];
            cases.push(Case::new("Gemm", 13, &format!("{name} scaled with {c:?}"), operands, &all));
        }
        cases.push(Case::new(
            "Gemm",
            13,
            &format!("{name} scaled with a scalar"),
            vec![a.clone(), b.clone(), cs(3.0)],
            &all,
        ));
        cases.push(Case::new("Gemm", 13, &format!("{name} alone"), vec![a, b], &all));
    }

    let equations: [(&str, &[&[usize]]); 21] = [
        ("ij,jk->ik", &[&[2, 3], &[3, 4]]),
        ("ij,jk", &[&[2, 3], &[3, 4]]),
        ("ij,kj->ik", &[&[2, 3], &[4, 3]]),
        ("bij,bjk->bik", &[&[2, 3, 4], &[2, 4, 2]]),
        ("bhid,bhjd->bhij", &[&[2, 2, 3, 4], &[2, 2, 5, 4]]),
        ("bhij,bjhd->bihd", &[&[2, 2, 3, 4], &[2, 4, 2, 5]]),
        ("...ij,...jk->...ik", &[&[2, 2, 3], &[2, 3, 4]]),
        ("...ij,jk->...ik", &[&[2, 2, 3], &[3, 4]]),
        ("...i,...i->...", &[&[2, 3], &[2, 3]]),
        ("ij->ji", &[&[2, 3]]),
        ("ij->", &[&[2, 3]]),
        ("ij->j", &[&[2, 3]]),
        ("ba", &[&[2, 3]]),
        ("...ij->...ji", &[&[2, 3, 4]]),
        ("i,i->", &[&[3], &[3]]),
        ("i,j->ij", &[&[2], &[3]]),
        ("i,i->i", &[&[3], &[3]]),
        ("bnc,c->bnc", &[&[2, 3, 4], &[4]]),
        ("ij,jk,kl->il", &[&[2, 3], &[3, 4], &[4, 2]]),
        ("nhwpqc->nchpwq", &[&[1, 2, 3, 2, 2, 3]]),
        (" i j , j k -> i k ", &[&[2, 3], &[3, 4]]),
    ];
    for (equation, shapes) in equations {
        let operands = shapes.iter().enumerate().map(|(i, s)| if i == 0 { f(s) } else { g(s) }).collect();
        cases.push(Case::new("Einsum", 12, equation, operands, &[("equation", txt(equation))]));
    }
    let ellipsis = ("equation", txt("...ij,...jk->...ik"));
    cases.push(Case::new("Einsum", 12, "broadcast ellipsis", vec![f(&[2, 1, 2, 3]), g(&[1, 4, 3, 2])], &[ellipsis]));
}

fn reductions(cases: &mut Vec<Case>) {
    let all = [
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ];
    for op in all {
        let x = || if op == "ReduceLogSum" { p(&[2, 3, 4]) } else { f(&[2, 3, 4]) };
        let attributes = if op == "ReduceSum" { [9, 11] } else { [11, 13] };
        for opset in attributes {
            cases.push(Case::new(op, opset, "all", vec![x()], &[]));
            for (axes, keep) in [(&[1][..], 1), (&[0, 2], 0), (&[-1], 0), (&[2, 1], 1)] {
                let attrs = [("axes", ints(axes)), ("keepdims", int(keep))];
                cases.push(Case::new(op, opset, &format!("{axes:?} keepdims {keep}"), vec![x()], &attrs));
            }
        }
        let operands: &[i64] = if op == "ReduceSum" { &[13, 18] } else { &[18] };
        for &opset in operands {
            cases.push(Case::new(op, opset, "all", vec![x()], &[("keepdims", int(0))]));
            cases.push(Case::new(op, opset, "no axes", vec![x(), ci(&[])], &[]));
            for (axes, keep) in [(&[1][..], 1), (&[0, 2], 0), (&[-1], 0), (&[2, 1], 1)] {
                let about = format!("{axes:?} keepdims {keep}");
                cases.push(Case::new(op, opset, &about, vec![x(), ci(axes)], &[("keepdims", int(keep))]));
            }
            let idle = ("noop_with_empty_axes", int(1));
            cases.push(Case::new(op, opset, "idle", vec![x(), ci(&[])], std::slice::from_ref(&idle)));
            cases.push(Case::new(op, opset, "idle without axes", vec![x()], std::slice::from_ref(&idle)));
            cases.push(Case::new(op, opset, "not idle", vec![x(), ci(&[1])], std::slice::from_ref(&idle)));
        }
        cases.push(Case::new(op, 18, "scalar", vec![cs(1.5)], &[]));
        let values: Vec<f64> = noise(5, 6).iter().map(|v| 0.5 + v).collect();
        cases.push(Case::new(op, 18, "of f64", vec![t(F64, &[2, 3], &values), ci(&[1])], &[]));
    }
    for op in ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean"] {
        for dtype in [I64, I32] {
            let x = t(dtype, &[2, 3], &[1.0, -2.0, 3.0, 4.0, 5.0, -6.0]);
            cases.push(Case::new(op, 18, &format!("of {dtype}"), vec![x, ci(&[1])], &[]));
        }
    }
    let large = || fs(&[100.0, 101.0, -100.0, 99.0]);
    cases.push(Case::new("ReduceLogSumExp", 18, "large", vec![large()], &[]));
    cases.push(Case::new("ReduceLogSumExp", 13, "large", vec![large()], &[]));
    cases.push(Case::new("ReduceSum", 13, "no elements", vec![t(F32, &[2, 0], &[]).c(), ci(&[1])], &[]));
    cases.push(Case::new("ReduceProd", 18, "no elements", vec![t(F32, &[2, 0], &[]).c(), ci(&[1])], &[]));
    cases.push(Case::new("ReduceSum", 13, "many rows", vec![f(&[40, 70]), ci(&[0])], &[]).loose());

    for opset in [9, 22] {
        for shape in [&[2, 3, 5][..], &[2, 3, 4, 5], &[1, 2, 2, 3, 2]] {
            cases.push(Case::new("GlobalAveragePool", opset, &format!("{shape:?}"), vec![f(shape)], &[]));
        }
    }
}
