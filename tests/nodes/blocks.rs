//! Attention, rotary embedding, pooling by the largest element and by norms, normalisations and losses made of primitives.

use super::*;

pub(super) fn add(cases: &mut Vec<Case>) {
    attention(cases);
    rotary(cases);
    pools(cases);
    norms(cases);
    losses(cases);
}

fn attention(cases: &mut Vec<Case>) {
    let four = |heads: usize, tokens: usize| f(&[2, heads, tokens, 8]);
    let plain = || vec![four(4, 3), g(&[2, 4, 5, 8]), f(&[2, 4, 5, 6])];
    let with = |mask: Operand| [plain(), vec![mask]].concat();
    let mut push = |name: &str, operands: Vec<Operand>, attrs: &[common::Attr]| {
        cases.push(Case::new("Attention", 23, name, operands, attrs).loose());
    };
    push("", plain(), &[]);
    push("scale", plain(), &[("scale", flt(0.3))]);
    push("causal", plain(), &[("is_causal", int(1))]);
    push("softcap", plain(), &[("softcap", flt(2.0))]);
    push("mask of all", with(f(&[3, 5])), &[]);
    push("mask of heads", with(f(&[1, 4, 3, 5])), &[]);
    push("mask of samples", with(f(&[2, 1, 3, 5])), &[]);
    let allowed = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0];
    push("mask of bool", with(t(Bool, &[3, 5], &allowed)), &[]);
    push("shared keys", vec![four(4, 3), g(&[2, 2, 5, 8]), f(&[2, 2, 5, 8])], &[]);
    let heads = [("q_num_heads", int(2)), ("kv_num_heads", int(2))];
    push("flat", vec![f(&[2, 3, 8]), g(&[2, 5, 8]), f(&[2, 5, 12])], &heads);
}

fn rotary(cases: &mut Vec<Case>) {
    for interleaved in [0, 1] {
        let attrs = [("interleaved", int(interleaved))];
        let operands = vec![f(&[2, 3, 4, 8]), f(&[2, 4, 4]), g(&[2, 4, 4])];
        cases.push(Case::new("RotaryEmbedding", 23, &format!("four {interleaved}"), operands, &attrs));
        let operands =
            vec![f(&[2, 3, 4, 8]), f(&[9, 4]), g(&[9, 4]), t(I64, &[2, 4], &[0., 1., 2., 3., 5., 6., 7., 8.])];
        cases.push(Case::new("RotaryEmbedding", 23, &format!("positions {interleaved}"), operands, &attrs));
        let attrs = [("interleaved", int(interleaved)), ("num_heads", int(3))];
        let operands = vec![f(&[2, 4, 24]), f(&[2, 4, 4]), g(&[2, 4, 4])];
        cases.push(Case::new("RotaryEmbedding", 23, &format!("three {interleaved}"), operands, &attrs));
    }
}

fn pools(cases: &mut Vec<Case>) {
    for (op, opsets) in [("MaxPool", [8, 11, 12, 22]), ("LpPool", [11, 11, 18, 22])] {
        for (k, opset) in opsets.into_iter().enumerate() {
            let kernel = ("kernel_shape", ints(&[2, 3]));
            let name = format!("{k}");
            cases.push(
                Case::new(op, opset, &format!("{name} plain"), vec![f(&[2, 3, 7, 8])], std::slice::from_ref(&kernel))
                    .loose(),
            );
            let attrs = [kernel.clone(), ("strides", ints(&[2, 2])), ("pads", ints(&[1, 0, 0, 1]))];
            cases.push(Case::new(op, opset, &format!("{name} strided"), vec![f(&[2, 3, 7, 8])], &attrs).loose());
            for auto in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
                let attrs = [kernel.clone(), ("strides", ints(&[2, 2])), ("auto_pad", txt(auto))];
                cases.push(Case::new(op, opset, &format!("{name} {auto}"), vec![f(&[2, 3, 7, 8])], &attrs).loose());
            }
        }
        let line = [("kernel_shape", ints(&[3]))];
        cases.push(Case::new(op, 22, "one", vec![f(&[1, 2, 9])], &line).loose());
        let block = [("kernel_shape", ints(&[2, 2, 2]))];
        cases.push(Case::new(op, 22, "three", vec![f(&[1, 2, 4, 4, 4])], &block).loose());
    }
    let attrs = [
        ("kernel_shape", ints(&[3, 3])),
        ("strides", ints(&[2, 2])),
        ("ceil_mode", int(1)),
        ("dilations", ints(&[2, 1])),
    ];
    cases.push(Case::new("MaxPool", 12, "ceil dilated", vec![f(&[1, 2, 8, 8])], &attrs));
    let attrs = [("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2])), ("pads", ints(&[1, 1, 1, 1]))];
    cases.push(Case::with_outputs("MaxPool", 12, "indices", vec![f(&[2, 2, 5, 4])], &attrs, 2));
    for power in [1, 3] {
        let attrs = [("kernel_shape", ints(&[2, 2])), ("p", int(power))];
        cases.push(Case::new("LpPool", 18, &format!("p {power}"), vec![f(&[1, 2, 5, 5])], &attrs).loose());
    }
    for opset in [1, 22] {
        cases.push(Case::new("GlobalMaxPool", opset, "", vec![f(&[2, 3, 4, 5])], &[]));
    }
    for (opset, power) in [(2, 1), (2, 2), (22, 3)] {
        cases.push(
            Case::new("GlobalLpPool", opset, &format!("p {power}"), vec![f(&[2, 3, 4, 5])], &[("p", int(power))])
                .loose(),
        );
    }
}

fn norms(cases: &mut Vec<Case>) {
    for (axis, power) in [(0, 1), (1, 2), (-1, 2)] {
        for opset in [1, 22] {
            let attrs = [("axis", int(axis)), ("p", int(power))];
            cases.push(Case::new(
                "LpNormalization",
                opset,
                &format!("axis {axis} p {power}"),
                vec![f(&[3, 4])],
                &attrs,
            ));
        }
    }
    for opset in [1, 13] {
        for size in [1, 3, 5] {
            let attrs = [("size", int(size)), ("alpha", flt(0.2)), ("beta", flt(0.6)), ("bias", flt(1.5))];
            cases.push(Case::new("LRN", opset, &format!("size {size}"), vec![f(&[2, 4, 3, 3])], &attrs).loose());
        }
    }
    for opset in [9, 13] {
        cases.push(Case::new("MeanVarianceNormalization", opset, "", vec![f(&[2, 3, 4, 5])], &[]).loose());
        let attrs = [("axes", ints(&[1, 2]))];
        cases.push(Case::new("MeanVarianceNormalization", opset, "axes", vec![f(&[2, 3, 4])], &attrs).loose());
    }
}

fn losses(cases: &mut Vec<Case>) {
    let classes = || t(I64, &[3], &[1.0, 0.0, 3.0]);
    for (op, opsets) in [("NegativeLogLikelihoodLoss", [12, 13]), ("SoftmaxCrossEntropyLoss", [12, 13])] {
        for opset in opsets {
            for reduction in ["none", "sum", "mean"] {
                let attrs = [("reduction", txt(reduction))];
                cases.push(Case::new(op, opset, reduction, vec![f(&[3, 4]), classes()], &attrs).loose());
                let operands = vec![f(&[3, 4]), classes(), p(&[4])];
                cases.push(Case::new(op, opset, &format!("{reduction} weights"), operands, &attrs).loose());
                let attrs = [("reduction", txt(reduction)), ("ignore_index", int(0))];
                cases.push(
                    Case::new(op, opset, &format!("{reduction} ignored"), vec![f(&[3, 4]), classes()], &attrs).loose(),
                );
            }
            let targets = t(I64, &[2, 3], &[0.0, 1.0, 2.0, 3.0, 1.0, 1.0]);
            cases.push(Case::new(op, opset, "picture", vec![f(&[2, 4, 3]), targets], &[]).loose());
        }
    }
}
