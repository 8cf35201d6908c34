//! The shared checks of the operators, on the cases that each operator gives: types, text form, gradients and updates.

mod common;

use common::shim::{device, precision};
use common::{noise, oracle_type};
use sara_compiler::autodiff::Grad;
use sara_compiler::evaluate::{execute, execute_by};
use sara_compiler::ir::verify::verify;
use sara_compiler::ir::{Block, Def, Graph, Type, ValueId, parse, parse_type};
use sara_compiler::ops::{Case, ConvGradWeight, Data, LowRank, MaskedConvGrad, MaskedMatMulGrad, Op};
use sara_kernels::cuda::MatmulPrecision;
use sara_kernels::{DType, Scalar, hyper};
use sara_runtime::interpret::Memory;
use sara_runtime::plan::{Buffer, Step};
use std::collections::{BTreeMap, BTreeSet};

/// Operators of backward and update blocks, which have no gradient of their own.
const SECOND_ORDER: &[&str] = &[
    "AttentionGrad",
    "ConvGradWeight",
    "Fetch",
    "GatherGrad",
    "GluGrad",
    "GroupNormGrad",
    "GroupNormGradAffine",
    "LayerNormGrad",
    "LayerNormGradAffine",
    "LowRank",
    "MaskedConvGrad",
    "MaskedMatMulGrad",
    "MseLossGrad",
    "ResampleGrad",
    "RmsNormGrad",
    "RmsNormGradScale",
    "SoftmaxGrad",
    "Take",
    "UnaryGrad",
];

/// Operands in which an operator refuses a gradient that exists: the mask of attention, the target of the loss, and the divisor
/// of a remainder.
const REFUSED: &[(&str, usize)] = &[("Attention", 3), ("Binary", 1), ("MseLoss", 1)];

/// Operands that never train, so that the operator reports no gradient although there is one: the table of a resampling, and
/// the weight below its trained entries.
const FROZEN: &[(&str, usize)] = &[("Resample", 2), ("SparseDelta", 0)];

/// Operators whose tables are `f32`, so that their gradients are checked in `f32`. They are linear.
const SINGLE: &[&str] = &["Resample"];

/// One operator in a graph of its own.
struct Applied {
    graph: Graph,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<ValueId>,
}

fn apply(op: &Op, types: &[Option<Type>]) -> sara_compiler::Result<Applied> {
    let mut graph = Graph::new("case");
    let inputs: Vec<Option<ValueId>> = types
        .iter()
        .enumerate()
        .map(|(i, ty)| ty.clone().map(|ty| graph.add_value(&format!("x{i}"), ty, Def::Arg(format!("x{i}")))))
        .collect();
    let acts = types.iter().flatten().count() > 0 && op.infer(&refs(types)).is_ok_and(|t| t.is_empty());
    let block = if acts { Block::Update } else { Block::Forward };
    let outputs = graph.emit(block, op.clone(), &inputs, "y", &"".into())?;
    let results = outputs.iter().enumerate().map(|(i, v)| (format!("y{i}"), *v));
    // An operator without results shows what it does in its operands.
    let state = inputs.iter().enumerate().filter_map(|(i, v)| v.filter(|_| acts).map(|v| (format!("x{i}"), v)));
    graph.returns = results.chain(state).collect();
    Ok(Applied { graph, inputs, outputs })
}

fn refs(types: &[Option<Type>]) -> Vec<Option<&Type>> {
    types.iter().map(Option::as_ref).collect()
}

impl Applied {
    /// Runs the operator. Returns the graph's returns as numbers.
    fn run(&self, data: &[Vec<f64>]) -> BTreeMap<String, Vec<f64>> {
        let bytes = |id: ValueId| {
            let at = self.inputs.iter().position(|v| *v == Some(id))?;
            Some(encode(&data[at], self.graph.ty(id).dtype))
        };
        let results = execute(&self.graph, &Block::ALL, bytes).expect("the case runs");
        let typed = |name: &str| self.graph.returns.iter().find(|r| r.0 == name).map(|r| self.graph.ty(r.1).dtype);
        results.into_iter().filter_map(|(n, b)| typed(&n).map(|t| (n, decode(&b, t)))).collect()
    }

    /// The same by the CUDA kernels.
    fn run_on_device(&self, data: &[Vec<f64>], seed: u64) -> BTreeMap<String, Vec<u8>> {
        let bytes = |id: ValueId| {
            let at = self.inputs.iter().position(|v| *v == Some(id))?;
            Some(encode(&data[at], self.graph.ty(id).dtype))
        };
        let run = |memory: &mut Memory, buffers: &[Buffer], steps: &[Step]| {
            memory.run_on(buffers, steps, device(seed).as_mut())
        };
        execute_by(&self.graph, &Block::ALL, bytes, run).unwrap_or_else(|e| panic!("{}: {e}", self.line()))
    }

    /// The same for a result that depends on trained entries: they live inside the weight.
    fn run_stored(&self, op: &Op, data: &[Vec<f64>]) -> BTreeMap<String, Vec<f64>> {
        if !matches!(op, Op::SparseDelta(_)) {
            return self.run(data);
        }
        let mut data = data.to_vec();
        for (at, value) in data[1].clone().into_iter().zip(data[2].clone()) {
            data[0][at as usize] = value;
        }
        self.run(&data)
    }

    fn line(&self) -> String {
        let text = self.graph.to_string();
        text.lines().rev().nth(1).unwrap_or_default().trim().to_owned()
    }
}

fn encode(values: &[f64], dtype: DType) -> Vec<u8> {
    values.iter().flat_map(|v| common::encode(*v, oracle_type(dtype))).collect()
}

fn decode(bytes: &[u8], dtype: DType) -> Vec<f64> {
    common::decode(bytes, oracle_type(dtype))
}

/// What an operand holds. Positions ascend.
fn operand(ty: &Type, data: Data, seed: u64) -> Vec<f64> {
    let noise = noise(seed, ty.len());
    match (ty.dtype, data) {
        (DType::U32, _) => (0..ty.len()).map(|i| i as f64).collect(),
        (DType::F32 | DType::F64, Data::Signed) => {
            noise.into_iter().map(|v| if v < 0.5 { -1.0 + 1.8 * v } else { 0.1 + 1.8 * (v - 0.5) }).collect()
        }
        (DType::F32 | DType::F64, Data::Positive) => noise.into_iter().map(|v| 0.5 + v).collect(),
        (DType::Bool, _) | (_, Data::Signed) => noise.into_iter().map(|v| (2.0 * v).floor()).collect(),
        (_, Data::Positive) => noise.into_iter().map(|v| (1.0 + 2.0 * v).floor()).collect(),
    }
}

fn operands(types: &[Option<Type>], data: Data) -> Vec<Vec<f64>> {
    let one = |(i, ty): (usize, &Option<Type>)| ty.as_ref().map_or(Vec::new(), |ty| operand(ty, data, i as u64 + 1));
    types.iter().enumerate().map(one).collect()
}

/// The case in double precision, as far as the operator takes it.
fn doubled(case: &Case) -> Vec<Option<Type>> {
    if SINGLE.contains(&case.op.name()) {
        return case.inputs.clone();
    }
    let twice = |ty: &Type| if ty.dtype == DType::F32 { ty.with_dtype(DType::F64) } else { ty.clone() };
    let types: Vec<Option<Type>> = case.inputs.iter().map(|t| t.as_ref().map(twice)).collect();
    if case.op.infer(&refs(&types)).is_ok() { types } else { case.inputs.clone() }
}

#[test]
fn every_operator_has_cases() {
    let cases = Op::cases();
    let named: BTreeSet<&str> = cases.iter().map(|c| c.op.name()).collect();
    let missing: Vec<&&str> = Op::NAMES.iter().filter(|n| !named.contains(**n)).collect();
    assert!(missing.is_empty(), "without cases: {missing:?}");
}

#[test]
fn inferred_types_are_those_of_the_results() {
    for case in Op::cases() {
        let applied = apply(&case.op, &case.inputs).unwrap_or_else(|e| panic!("{:?}: {e}", case.op));
        let line = applied.line();
        verify(&applied.graph, "case").unwrap_or_else(|e| panic!("{line}: {e}"));
        let results = applied.run(&operands(&case.inputs, case.data));
        assert_eq!(results.len(), applied.graph.returns.len(), "{line}");
        for (name, value) in &applied.graph.returns {
            let ty = applied.graph.ty(*value);
            let found = &results[name];
            assert_eq!(found.len(), ty.len(), "{line}: {name}");
            // Memory that a kernel leaves unwritten has all bits set.
            let written = match ty.dtype {
                DType::F32 | DType::F64 => found.iter().all(|v| v.is_finite()),
                DType::Bool => found.iter().all(|v| [0.0, 1.0].contains(v)),
                _ => true,
            };
            assert!(written, "{line}: {name} is {found:?}");
        }
    }
}

#[test]
fn cuda_kernels_give_what_cpu_kernels_give_in_any_order_of_threads() {
    for case in Op::cases() {
        let applied = apply(&case.op, &case.inputs).unwrap_or_else(|e| panic!("{:?}: {e}", case.op));
        let line = applied.line();
        let data = operands(&case.inputs, case.data);
        let want = applied.run(&data);
        let got = applied.run_on_device(&data, 1);
        for seed in [2, 3] {
            assert!(got == applied.run_on_device(&data, seed), "{line} depends on the order of threads");
        }
        for (name, value) in &applied.graph.returns {
            let found = decode(&got[name], applied.graph.ty(*value).dtype);
            for (g, w) in found.iter().zip(&want[name]) {
                assert!(
                    (g - w).abs() <= product_tolerance() * (1.0 + w.abs()) || g == w,
                    "{line}: {name} has {g} and {w}"
                );
            }
        }
    }
}

/// How far products in single precision may be off on the device.
fn product_tolerance() -> f64 {
    match precision() {
        MatmulPrecision::Highest => 1e-5,
        MatmulPrecision::High => 5e-5,
        MatmulPrecision::Tf32 => 3e-3,
    }
}

/// Operands that may be in half precision: weights, and what is viewed.
const HALF: &[(&str, usize)] = &[
    ("Conv", 1),
    ("ConvGradInput", 1),
    ("MatMul", 0),
    ("MatMul", 1),
    ("Reshape", 0),
    ("SparseAdamW", 0),
    ("SparseDelta", 0),
];

/// An operand in half precision gives what its numbers give in single precision, on a CPU and on a GPU.
#[test]
fn cuda_and_cpu_operands_in_half_precision_stand_for_their_numbers() {
    for (name, wrt) in HALF {
        let single = |c: &Case| c.inputs[*wrt].as_ref().is_some_and(|ty| ty.dtype == DType::F32);
        let cases: Vec<Case> = Op::cases().into_iter().filter(|c| c.op.name() == *name && single(c)).collect();
        assert!(!cases.is_empty(), "{name} has no case in single precision");
        for (case, half) in cases.iter().flat_map(|case| [DType::Bf16, DType::F16].map(|half| (case, half))) {
            let mut types = case.inputs.clone();
            types[*wrt] = types[*wrt].as_ref().map(|ty| ty.with_dtype(half));
            // All real operands hold numbers of half precision, because products may round them to it.
            let mut data = operands(&case.inputs, case.data);
            for (values, ty) in data.iter_mut().zip(&case.inputs) {
                if ty.as_ref().is_some_and(|ty| ty.dtype == DType::F32) {
                    *values = decode(&encode(values, half), half);
                }
            }
            let [want, got] = [&case.inputs, &types].map(|types| apply(&case.op, types).unwrap());
            let (line, want, cpu, device) = (got.line(), want.run(&data), got.run(&data), got.run_on_device(&data, 1));
            for (name, value) in &got.graph.returns {
                let dtype = got.graph.ty(*value).dtype;
                let tolerance = |single: f64| match dtype {
                    // What only moves numbers of half precision leaves them as they are.
                    _ if matches!(case.op, Op::Reshape(_) | Op::SparseDelta(_)) => 0.0,
                    DType::Bf16 => 4e-3,
                    DType::F16 => 5e-4,
                    _ => single,
                };
                let on_device = decode(&device[name], dtype);
                for (found, tolerance) in [(&cpu[name], tolerance(1e-5)), (&on_device, tolerance(product_tolerance()))]
                {
                    for (g, w) in found.iter().zip(&want[name]) {
                        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{line}: {name} has {g}, not {w}");
                    }
                }
            }
        }
    }
}

#[test]
fn text_forms_survive_parsing() {
    for case in Op::cases() {
        let applied = apply(&case.op, &case.inputs).unwrap_or_else(|e| panic!("{:?}: {e}", case.op));
        let text = applied.graph.to_string();
        let again = parse(&text).unwrap_or_else(|e| panic!("{text}{e}"));
        assert_eq!(again.to_string(), text);
        let block = if applied.outputs.is_empty() { Block::Update } else { Block::Forward };
        assert_eq!(again.node(again.block(block)[0]).op, case.op);
    }
}

#[test]
fn attributes_survive_parsing() {
    for case in Op::cases() {
        let (op, attrs) = (&case.op, case.op.attrs());
        assert_eq!(Op::parse(op.name(), &attrs).as_ref(), Ok(op));
        for name in attrs.keys() {
            let mut fewer = attrs.clone();
            fewer.remove(name);
            let error = Op::parse(op.name(), &fewer).expect_err("an attribute is missing");
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
        let mut more = attrs.clone();
        more.insert("surplus".to_owned(), Scalar::Int(1));
        let error = Op::parse(op.name(), &more).expect_err("an attribute is unknown");
        assert!(error.contains("`surplus`"), "{error}");
    }
}

#[test]
fn operand_counts_are_checked() {
    for case in Op::cases() {
        let types = refs(&case.inputs);
        assert!(case.op.infer(&[]).is_err(), "{:?} takes nothing", case.op);
        let variadic = matches!(case.op, Op::Concat(_) | Op::ClipNorm(_));
        let more: Vec<_> = types.iter().copied().chain([types[0]]).collect();
        assert!(variadic || case.op.infer(&more).is_err(), "{:?} takes one operand more", case.op);
    }
}

/// What a gradient check finds.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The gradient is the slope.
    Agrees,
    /// The operator has no gradient there, and the slope is zero.
    Flat,
    /// The operator has no gradient there although the slope is not zero.
    Frozen,
    /// The operator refuses.
    Refused(String),
}

/// Compares the gradient in operand `wrt` with central differences of a random projection of the first result.
fn check_gradient(case: &Case, wrt: usize) -> Outcome {
    let types = doubled(case);
    let mut applied = apply(&case.op, &types).unwrap_or_else(|e| panic!("{:?}: {e}", case.op));
    let line = applied.line();
    let data = operands(&types, case.data);
    let (Some(x), y) = (applied.inputs[wrt], applied.outputs[0]) else { panic!("{line}: no operand {wrt}") };
    let ty = applied.graph.ty(y).clone();
    let empty = ty.is_empty();
    let dy = applied.graph.add_value("dy", ty.clone(), Def::Arg("dy".to_owned()));
    let node = applied.graph.block(Block::Forward)[0];
    let shape = applied.graph.ty(x).shape.clone();
    let mut g = Grad::new(&mut applied.graph, node, dy, "dx".to_owned());
    let gradient = match case.op.grad(&mut g, wrt) {
        Err(e) => return Outcome::Refused(e.to_string()),
        Ok(gradient) => gradient.map(|v| g.unbroadcast(v, &shape).unwrap_or_else(|e| panic!("{line}: {e}"))),
    };
    // The loss takes it for granted that its own gradient is 1.
    let loss = matches!(case.op, Op::MseLoss(_));
    let projection: Vec<f64> = noise(99, ty.len()).iter().map(|v| if loss { 1.0 } else { 2.0 * v - 1.0 }).collect();
    let single = applied.graph.ty(x).dtype == DType::F32;
    // Only linear operators are checked in single precision, where a large step is exact.
    let (step, tolerance) = if single { (0.25, 1e-5) } else { (1e-5, 1e-7) };
    let value = |data: &[Vec<f64>]| -> f64 {
        applied.run_stored(&case.op, data)["y0"].iter().zip(&projection).map(|(a, b)| a * b).sum()
    };
    let slope: Vec<f64> = (0..data[wrt].len())
        .map(|i| {
            let moved = |by: f64| {
                let mut data = data.clone();
                data[wrt][i] += by;
                value(&data)
            };
            (moved(step) - moved(-step)) / (2.0 * step)
        })
        .collect();
    let largest = slope.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let Some(gradient) = gradient else {
        return if largest < tolerance { Outcome::Flat } else { Outcome::Frozen };
    };
    assert_eq!(applied.graph.ty(gradient), applied.graph.ty(x), "{line}: the gradient has another type");
    applied.graph.returns = vec![("dx".to_owned(), gradient)];
    verify(&applied.graph, "gradient").unwrap_or_else(|e| panic!("{line}: {e}"));
    applied.inputs.push(Some(dy));
    let mut data = data;
    data.push(projection);
    let found = &applied.run_stored(&case.op, &data)["dx"];
    assert_eq!(found.len(), slope.len(), "{line}");
    for (i, (a, b)) in found.iter().zip(&slope).enumerate() {
        let close = (a - b).abs() <= tolerance * largest.max(1.0);
        assert!(close, "{line}: gradient {i} in operand {wrt} is {a}, but the slope is {b}");
    }
    assert!(largest > 1e-3 || empty, "{line}: the case does not depend on operand {wrt}");
    Outcome::Agrees
}

#[test]
fn gradients_are_the_slopes() {
    let (mut agreeing, mut flat) = (BTreeSet::new(), BTreeSet::new());
    let (mut frozen, mut refused, mut backward) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut checked = 0;
    for case in Op::cases() {
        let applied = apply(&case.op, &case.inputs).unwrap_or_else(|e| panic!("{:?}: {e}", case.op));
        if applied.outputs.is_empty() {
            continue;
        }
        let floats = |t: &Option<Type>| t.as_ref().is_some_and(|t| t.dtype.is_float());
        for wrt in (0..case.inputs.len()).filter(|i| floats(&case.inputs[*i])) {
            checked += 1;
            let name = case.op.name();
            match check_gradient(&case, wrt) {
                Outcome::Agrees => agreeing.insert((name, wrt)),
                Outcome::Flat => flat.insert((name, wrt)),
                Outcome::Frozen => frozen.insert((name, wrt)),
                Outcome::Refused(e) if e.contains("second derivatives are not supported") => {
                    assert!(e.contains(name), "{e}");
                    backward.insert((name, wrt))
                }
                Outcome::Refused(_) => refused.insert((name, wrt)),
            };
        }
    }
    println!("{checked} operands of cases\nagree: {agreeing:?}\nflat: {flat:?}\nfrozen: {frozen:?}");
    println!("refused: {refused:?}\nbackward only: {backward:?}");
    assert_eq!(frozen.into_iter().collect::<Vec<_>>(), FROZEN);
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), REFUSED);
    let backward: BTreeSet<&str> = backward.into_iter().map(|b| b.0).collect();
    assert_eq!(backward.into_iter().collect::<Vec<_>>(), SECOND_ORDER);
    // What is in no list above has a gradient in at least one operand.
    let acting = ["Accumulate", "ClipNorm", "SparseAdamW"];
    for name in Op::NAMES.iter().filter(|n| !SECOND_ORDER.contains(n) && !acting.contains(n)) {
        assert!(agreeing.iter().any(|a| a.0 == *name), "no gradient of {name} is checked");
    }
}

fn types(texts: &[&str]) -> Vec<Option<Type>> {
    texts.iter().map(|t| (*t != "_").then(|| parse_type(t).expect("a type"))).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "element {i} is {a}, not {b}");
    }
}

#[test]
fn masked_products_are_entries_of_the_product() {
    let (rows, cols, n) = (3, 4, 5);
    for (batch, a_t, b_t) in [(0, false, false), (0, true, false), (2, false, true), (2, true, true), (3, false, false)]
    {
        let op = Op::from(MaskedMatMulGrad { rows, cols, a_t, b_t });
        let matrix = |width: usize, turned: bool| {
            let mut shape = if batch == 0 { vec![] } else { vec![batch] };
            shape.extend(if turned { [width, n] } else { [n, width] });
            Some(Type::new(DType::F32, &shape))
        };
        let index = [0.0, 3.0, 4.0, 6.0, 9.0, 11.0];
        let types = [matrix(rows, a_t), matrix(cols, b_t), Some(Type::new(DType::U32, &[index.len()]))];
        let mut data = operands(&types, Data::Signed);
        data[2] = index.to_vec();
        let at = |x: &[f64], width: usize, turned: bool, b: usize, i: usize, j: usize| {
            x[b * n * width + if turned { j * n + i } else { i * width + j }]
        };
        let expected: Vec<f64> = index
            .iter()
            .map(|k| {
                let (r, c) = (*k as usize / cols, *k as usize % cols);
                let term = |b: usize, i: usize| at(&data[0], rows, a_t, b, i, r) * at(&data[1], cols, b_t, b, i, c);
                (0..batch.max(1)).map(|b| (0..n).map(|i| term(b, i)).sum::<f64>()).sum()
            })
            .collect();
        assert_close(&apply(&op, &types).unwrap().run(&data)["y0"], &expected, 1e-5);
    }
}

#[test]
fn masked_convolutions_are_entries_of_the_dense_gradient() {
    let (strides, pads, dilations) = (vec![2, 1], vec![1, 0, 1, 1], vec![1, 2]);
    for (groups, dy) in [(1, "f32[2,2,3,4]"), (2, "f32[2,4,3,4]")] {
        let kernel = vec![3, 2];
        let dense = ConvGradWeight {
            kernel: kernel.clone(),
            groups,
            strides: strides.clone(),
            pads: pads.clone(),
            dilations: dilations.clone(),
        };
        let masked = MaskedConvGrad {
            kernel,
            groups,
            strides: strides.clone(),
            pads: pads.clone(),
            dilations: dilations.clone(),
        };
        let index = [0.0, 1.0, 5.0, 8.0, 13.0, 14.0, 22.0, 23.0];
        let types = types(&["f32[2,4,5,5]", dy, "u32[8]"]);
        let mut data = operands(&types, Data::Signed);
        data[2] = index.to_vec();
        let full = &apply(&dense.into(), &types[..2]).unwrap().run(&data)["y0"];
        let expected: Vec<f64> = index.iter().map(|i| full[*i as usize]).collect();
        assert!(expected.iter().any(|v| v.abs() > 0.1));
        assert_close(&apply(&masked.into(), &types).unwrap().run(&data)["y0"], &expected, 1e-5);
    }
}

/// The case of an operator of the update block, with its operands.
fn update_case(name: &str) -> (Case, Applied, Vec<Vec<f64>>) {
    let case = Op::cases().into_iter().find(|c| c.op.name() == name).expect("the operator has a case");
    let applied = apply(&case.op, &case.inputs).expect("the case fits");
    let data = operands(&case.inputs, case.data);
    (case, applied, data)
}

#[test]
fn accumulation_adds_the_scaled_gradient() {
    let (_, applied, data) = update_case("Accumulate");
    let expected: Vec<f64> =
        data[0].iter().zip(&data[2]).map(|(d, g)| g + data[1][hyper::GRADIENT_SCALE] * d).collect();
    assert_close(&applied.run(&data)["x2"], &expected, 1e-6);
}

#[test]
fn clipping_measures_all_gradients() {
    let (_, applied, mut data) = update_case("ClipNorm");
    let norm = data[1].iter().chain(&data[2]).map(|v| v * v).sum::<f64>().sqrt();
    for (most, clip) in [(0.5 * norm, 0.5), (2.0 * norm, 1.0), (0.0, 1.0)] {
        data[0][hyper::MAX_NORM] = most;
        let found = &applied.run(&data)["x0"];
        assert_close(&[found[hyper::NORM], found[hyper::CLIP]], &[norm, clip], 1e-5);
    }
}

#[test]
fn adam_moves_the_trained_entries_of_the_weight() {
    let (_, applied, data) = update_case("SparseAdamW");
    let found = applied.run(&data);
    let [w, _, p, m, v, g, h] = &data[..] else { panic!("seven operands") };
    let mut weight = w.clone();
    let mut expected = [vec![], vec![], vec![]];
    for k in 0..p.len() {
        let d = g[k] * h[hyper::CLIP];
        let first = h[hyper::BETA1] * m[k] + h[hyper::REST1] * d;
        let second = h[hyper::BETA2] * v[k] + h[hyper::REST2] * d * d;
        let root = second.sqrt() / h[hyper::CORRECTION2].sqrt() + h[hyper::EPSILON];
        let kept = p[k] * (1.0 - h[hyper::LEARNING_RATE] * h[hyper::WEIGHT_DECAY]);
        weight[k] = kept - h[hyper::LEARNING_RATE] / h[hyper::CORRECTION1] * first / root;
        expected[0].push(weight[k]);
        expected[1].push(first);
        expected[2].push(second);
    }
    assert_close(&found["x0"], &weight, 1e-5);
    for (name, expected) in ["x2", "x3", "x4"].into_iter().zip(&expected) {
        assert_close(&found[name], expected, 1e-5);
    }
    assert!(found["x5"].iter().all(|g| *g == 0.0), "the gradient is not cleared");
}

/// The subgradient is the derivative of the sum of singular values, wherever that has one.
#[test]
fn low_rank_is_the_slope_of_the_nuclear_norm() {
    for (rows, cols) in [(3, 4), (5, 2), (3, 3)] {
        let op = Op::from(LowRank { rows, cols });
        let index: Vec<usize> = (0..rows * cols).filter(|i| i % 5 != 3).collect();
        let types = types(&[&format!("u32[{}]", index.len()), &format!("f32[{}]", index.len())]);
        let mut data = operands(&types, Data::Signed);
        data[0] = index.iter().map(|i| *i as f64).collect();
        let nuclear = |p: &[f64]| -> f64 {
            let mut matrix = nalgebra::DMatrix::zeros(rows, cols);
            for (i, v) in index.iter().zip(p) {
                matrix[(i / cols, i % cols)] = *v;
            }
            matrix.singular_values().sum()
        };
        let expected: Vec<f64> = (0..index.len())
            .map(|i| {
                let moved = |by: f64| {
                    let mut p = data[1].clone();
                    p[i] += by;
                    nuclear(&p)
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            })
            .collect();
        assert_close(&apply(&op, &types).unwrap().run(&data)["y0"], &expected, 1e-3);
    }
}

/// Gradient of the sum of the results with respect to operand `wrt`, at these operands.
fn gradient_at(op: &Op, texts: &[&str], data: &[Vec<f64>], wrt: usize) -> Vec<f64> {
    let mut applied = apply(op, &types(texts)).expect("the operands fit");
    let ty = applied.graph.ty(applied.outputs[0]).clone();
    let len = ty.len();
    let dy = applied.graph.add_value("dy", ty, Def::Arg("dy".to_owned()));
    let node = applied.graph.block(Block::Forward)[0];
    let mut g = Grad::new(&mut applied.graph, node, dy, "dx".to_owned());
    let gradient = op.grad(&mut g, wrt).expect("a gradient").expect("a slope");
    applied.graph.returns = vec![("dx".to_owned(), gradient)];
    applied.inputs.push(Some(dy));
    let mut data = data.to_vec();
    data.push(vec![1.0; len]);
    applied.run(&data)["dx"].clone()
}

/// At zeros, where the textbook formulas divide by zero.
#[test]
fn gradients_at_zero_are_the_slopes() {
    let prod = Op::parse(
        "Reduce",
        &[
            ("op".to_owned(), sara_kernels::Scalar::Word("prod".into())),
            ("axes".to_owned(), sara_kernels::Scalar::Ints(vec![1])),
            ("keepdims".to_owned(), sara_kernels::Scalar::Int(0)),
        ]
        .into(),
    )
    .expect("a product");
    let x = vec![2.0, 3.0, 4.0, 0.0, 3.0, 4.0, 0.0, 0.0, 4.0];
    let found = gradient_at(&prod, &["f64[3,3]"], &[x], 0);
    assert_close(&found, &[12.0, 8.0, 6.0, 12.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1e-12);
    let pow = Op::from(sara_compiler::ops::Binary { op: "pow".into() });
    let data = [vec![0.0, 0.0, 0.0, 2.0, 2.0], vec![0.0, 1.0, 2.0, 0.0, 3.0]];
    let texts = ["f64[5]", "f64[5]"];
    assert_close(&gradient_at(&pow, &texts, &data, 0), &[0.0, 1.0, 0.0, 0.0, 12.0], 1e-12);
    let log = 2f64.ln();
    assert_close(&gradient_at(&pow, &texts, &data, 1), &[0.0, 0.0, 0.0, log, 8.0 * log], 1e-12);
}
