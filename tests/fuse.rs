//! Elementwise steps that a device runs as one launch give the bits that they give one by one.

#![expect(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod common;

use common::recorder::Recorder;
use common::shim::Shim;
use sara::compiler::compile::{Precision, TrainOptions, compile_training, unobserved};
use sara::compiler::import::Model;
use sara::compiler::select::Amount;
use sara::kernels::{DType, Scalar, find};
use sara::runtime::device::Source;
use sara::runtime::device::nvrtc::Nvrtc;
use sara::runtime::executor::Executor;
use sara::runtime::files::sha256_file;
use sara::runtime::plan::{
    ALIGN, Buffer, BufferId, ModelFile, Part, Peak, Place, Plan, Port, Program, Selection, Step,
};
use sara::runtime::tensor::{Tensor, read_safetensors};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements of most buffers: rows and columns, more than a block takes.
const ROWS: u64 = 48;
const COLUMNS: u64 = 32;
const N: u64 = ROWS * COLUMNS;
/// Bytes from one buffer to the next.
const SLOT: u64 = 4 * N;

/// A plan that is written by hand.
struct Draft {
    plan: Plan,
}

impl Draft {
    fn new(slots: u64) -> Draft {
        // Any file: no weight lies in it.
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file!());
        let (bytes, sha256) = sha256_file(&path).unwrap();
        let model = ModelFile { path, root: None, bytes, sha256 };
        let plan = Plan {
            name: "drafted".into(),
            model,
            selection: Selection::default(),
            arena_bytes: slots * SLOT,
            buffers: Vec::new(),
            weights: Vec::new(),
            sparse: Vec::new(),
            use_8bit_adam: false,
            constants: Vec::new(),
            programs: Vec::new(),
        };
        Draft { plan }
    }

    /// Begins a program whose inputs and outputs are those slots.
    fn program(&mut self, inputs: &[u64], outputs: &[u64]) {
        let name = self.plan.programs.len().to_string();
        let mut port = |slot: &u64| Port {
            name: slot.to_string(),
            buffer: self.buffer(slot * SLOT, DType::F32, N),
            shape: vec![ROWS, COLUMNS],
        };
        let (inputs, outputs) = (inputs.iter().map(&mut port).collect(), outputs.iter().map(&mut port).collect());
        let (arena_bytes, peak) = (self.plan.arena_bytes, Peak::default());
        self.plan.programs.push(Program { name, inputs, outputs, steps: Vec::new(), arena_bytes, peak });
    }

    fn buffer(&mut self, at: u64, dtype: DType, len: u64) -> BufferId {
        let buffer = Buffer { name: format!("{dtype} at {at}"), dtype, len, place: Place::Arena(at) };
        let known = self.plan.buffers.iter().position(|b| *b == buffer);
        BufferId(known.unwrap_or_else(|| {
            self.plan.buffers.push(buffer);
            self.plan.buffers.len() - 1
        }) as u32)
    }

    fn step(&mut self, kernel: &str, args: &[(u64, DType, u64)], scalars: Vec<Scalar>) {
        let args = args.iter().map(|(at, dtype, len)| Some(self.buffer(*at, *dtype, *len))).collect();
        let step = Step { kernel: find(kernel).unwrap(), args, scalars, origin: String::new(), part: Part::Forward };
        self.plan.programs.last_mut().unwrap().steps.push(step);
    }

    fn unary(&mut self, op: &str, x: u64, y: u64) {
        let scalars = vec![Scalar::Word(op.into()), Scalar::Float(-1.0), Scalar::Float(1.5)];
        self.step("unary", &[(x, DType::F32, N), (y, DType::F32, N)], scalars);
    }

    /// `b` is as large as `a`, or broadcast from a row or a column.
    fn binary(&mut self, op: &str, a: u64, (b, len): (u64, u64), y: u64) {
        let lists = [vec![ROWS as i64, COLUMNS as i64], vec![COLUMNS as i64, 1], strides(len)].map(Scalar::Ints);
        let scalars = [vec![Scalar::Word(op.into())], lists.to_vec()].concat();
        self.step("binary", &[(a, DType::F32, N), (b, DType::F32, len), (y, DType::F32, N)], scalars);
    }

    fn in_place(&mut self, op: &str, (b, len): (u64, u64), y: u64) {
        let lists = [vec![ROWS as i64, COLUMNS as i64], strides(len)].map(Scalar::Ints);
        let scalars = [vec![Scalar::Word(op.into())], lists.to_vec()].concat();
        self.step("binary_in_place", &[(b, DType::F32, len), (y, DType::F32, N)], scalars);
    }

    /// Writes `n` elements of `y` from one on.
    fn copy(&mut self, (x, x_offset): (u64, u64), (y, y_offset): (u64, u64), n: u64, stride: i64) {
        let [int, ints] = [|v: u64| Scalar::Int(v as i64), |v: u64| Scalar::Ints(vec![v as i64])];
        let scalars = vec![ints(n), int(x_offset), Scalar::Ints(vec![stride]), int(y_offset), ints(1)];
        self.step("copy", &[(x, DType::F32, N), (y, DType::F32, N)], scalars);
    }

    /// Runs all programs, the inputs being given numbers, and returns the outputs and the launches of each.
    fn run(&self, apart: bool) -> (Vec<Vec<Vec<u8>>>, Vec<usize>) {
        let mut device = Shim::new(5);
        device.apart = apart;
        let count = device.launches.clone();
        let mut executor = Executor::on(self.plan.clone(), 1, None, Some(Box::new(device))).unwrap();
        executor.poison(false);
        let outcome = |program: &Program| {
            for (k, port) in program.inputs.iter().enumerate() {
                let number = |i: u64| ((i * 37 + k as u64 * 11) % 201) as f32 / 100.0 - 1.0;
                let bytes: Vec<u8> = (0..N).flat_map(|i| number(i).to_ne_bytes()).collect();
                let tensor = Tensor::from_bytes(DType::F32, &[ROWS as usize, COLUMNS as usize], &bytes).unwrap();
                executor.set_input(&program.name, &port.name, &tensor).unwrap();
            }
            let before = count.load(Ordering::Relaxed);
            executor.run(&program.name).unwrap();
            let ports = program.outputs.iter();
            let outputs = ports.map(|p| executor.output(&program.name, &p.name).unwrap().bytes().to_vec()).collect();
            (outputs, count.load(Ordering::Relaxed) - before)
        };
        self.plan.programs.iter().map(outcome).unzip()
    }

    /// Fails unless fusing changes nothing but the launches, whose numbers are returned.
    fn check(&self) -> Vec<usize> {
        let (apart, fused) = (self.run(true), self.run(false));
        for (p, (apart, fused)) in apart.0.iter().zip(&fused.0).enumerate() {
            let steps = &self.plan.programs[p].steps;
            assert!(apart == fused, "program {p}: {steps:?}");
        }
        fused.1
    }
}

/// Strides of an operand of so many elements.
fn strides(len: u64) -> Vec<i64> {
    match len {
        COLUMNS => vec![0, 1],
        ROWS => vec![1, 0],
        1 => vec![0, 0],
        _ => vec![COLUMNS as i64, 1],
    }
}

#[test]
fn chains_become_one_launch_and_traps_do_not() {
    let at = |slot: u64| slot * SLOT;
    let mut draft = Draft::new(6);
    let mut want = Vec::new();
    // A chain with a residual and broadcasting: what lies between is not stored.
    draft.program(&[0, 1], &[4]);
    draft.unary("silu", at(0), at(2));
    draft.binary("mul", at(2), (at(1), COLUMNS), at(3));
    draft.binary("add", at(3), (at(0), N), at(4));
    draft.in_place("add", (at(1), ROWS), at(4));
    want.push(1);
    // What lies between is read later, by a step of another kind or a program's reader.
    draft.program(&[0], &[2, 5]);
    draft.unary("tanh", at(0), at(1));
    draft.unary("neg", at(1), at(2));
    draft.copy((at(1), N - 1), (at(5), 0), N, -1);
    want.push(2);
    // Memory is used again, wholly and in part, by what follows.
    draft.program(&[0, 1], &[2]);
    draft.unary("silu", at(0), at(3));
    draft.binary("add", at(3), (at(1), N), at(4));
    draft.unary("tanh", at(4), at(3));
    draft.unary("neg", at(3), at(4) + ALIGN);
    draft.copy((at(4), N - 1), (at(2), 0), N, -1);
    want.push(3);
    // A step reads by a row what an earlier one writes, or writes what an earlier one reads by a row.
    draft.program(&[0, 1], &[2, 3]);
    draft.unary("tanh", at(0), at(2));
    draft.binary("mul", at(0), (at(2), COLUMNS), at(3));
    draft.unary("neg", at(1), at(2));
    want.push(3);
    // Elements move, so that each thread reads another's.
    draft.program(&[0, 1], &[2]);
    draft.unary("tanh", at(0), at(3));
    draft.copy((at(3), N - 1), (at(2), 0), N, -1);
    draft.in_place("add", (at(1), N), at(2));
    want.push(2);
    // In place on what is read before and after, and the parts of a concatenation.
    draft.program(&[0, 1], &[0, 2]);
    draft.binary("mul", at(0), (at(1), N), at(3));
    draft.in_place("add", (at(3), N), at(0));
    draft.binary("max", at(0), (at(3), N), at(4));
    draft.copy((at(4), 0), (at(2), 0), N / 2, 1);
    draft.copy((at(4), N / 2), (at(2), N / 2), N / 2, 1);
    want.push(2);
    assert_eq!(draft.check(), want);
}

#[test]
fn results_are_handed_on() {
    use DType::F32;
    let at = |slot: u64| slot * SLOT;
    let mut draft = Draft::new(16);
    let mut want = Vec::new();
    let one = |slot: u64| (at(slot), F32, N);
    let gemm = |terms: u64| {
        let [int, ints] = [|v: u64| Scalar::Int(v as i64), |_| Scalar::Ints(vec![])];
        let sizes = [int(ROWS), int(COLUMNS), int(terms), ints(0), ints(0), ints(0), ints(0)];
        // The operands lie in slots, row by row, of which each row is read from its start.
        let strides = [[1, 1], [COLUMNS as i64, 1], [COLUMNS as i64, 1]].map(|s| Scalar::Ints(s.to_vec()));
        [sizes.to_vec(), strides.to_vec(), vec![Scalar::Float(0.75), Scalar::Float(0.0)]].concat()
    };
    // A product of few terms, with a bias and a residual, and one of many, whose terms are shared out. What is not light comes after
    // the first by itself.
    for terms in [8, 512] {
        draft.program(&[0, 1, 2], &[3, 15]);
        for slot in 4..4 + (COLUMNS * terms).div_ceil(N) {
            draft.unary("sin", at(2), at(slot));
        }
        let operands = [(at(0), F32, N + terms), (at(4), F32, COLUMNS * terms), one(3)];
        draft.step("gemm", &operands, gemm(terms));
        // There is no bias.
        draft.plan.programs.last_mut().unwrap().steps.last_mut().unwrap().args.insert(2, None);
        draft.in_place("add", (at(1), COLUMNS), at(3));
        draft.in_place("add", (at(2), N), at(3));
        draft.unary("tanh", at(3), at(15));
        want.push(3);
    }
    // A normalisation that is shifted by rows, and whose result is read again.
    let norm = |cols: u64| vec![Scalar::Int((N / cols) as i64), Scalar::Int(cols as i64), Scalar::Float(1e-5)];
    let layer_norm = |draft: &mut Draft, y: u64| {
        let args =
            [one(0), (at(1), F32, COLUMNS), (at(2), F32, COLUMNS), one(y), (at(8), F32, ROWS), (at(9), F32, ROWS)];
        draft.step("layer_norm", &args, norm(COLUMNS));
    };
    draft.program(&[0, 1, 2], &[5, 6]);
    layer_norm(&mut draft, 4);
    draft.binary("mul", at(4), (at(1), ROWS), at(5));
    draft.in_place("add", (at(2), COLUMNS), at(5));
    draft.unary("silu", at(5), at(6));
    want.push(1);
    // What comes after may not change what all threads of a block read, nor read what they write besides.
    draft.program(&[0, 1, 2], &[0, 4, 5]);
    layer_norm(&mut draft, 4);
    draft.unary("silu", at(4), at(0));
    layer_norm(&mut draft, 4);
    draft.binary("mul", at(4), (at(8), ROWS), at(5));
    want.push(4);
    // A transpose comes after what it reads, but not before what reads it, nor onto what was read or written.
    let transposed = |x: u64, y: u64| {
        let lists = [[COLUMNS, ROWS], [1, COLUMNS], [ROWS, 1]].map(|l| Scalar::Ints(l.map(|v| v as i64).to_vec()));
        let [shape, x_strides, y_strides] = lists;
        ([one(x), one(y)], vec![shape, Scalar::Int(0), x_strides, Scalar::Int(0), y_strides])
    };
    draft.program(&[0, 1, 2], &[4, 6, 7, 1]);
    layer_norm(&mut draft, 3);
    let (args, scalars) = transposed(3, 4);
    draft.step("copy", &args, scalars);
    draft.unary("silu", at(4), at(5));
    let (args, scalars) = transposed(5, 6);
    draft.step("copy", &args, scalars);
    draft.unary("silu", at(1), at(7));
    let (args, scalars) = transposed(7, 1);
    draft.step("copy", &args, scalars);
    want.push(3);
    // A copy that reaches elements twice is in order. A concatenation's parts are apart, and what reads between them comes later.
    draft.program(&[0, 1, 2, 4, 6, 7], &[4, 5, 6, 7]);
    let strided = |x: u64, y: (u64, DType, u64), offset: u64, y_strides: [i64; 2]| {
        let lists = [[ROWS as i64, COLUMNS as i64], [COLUMNS as i64, 1], y_strides].map(|l| Scalar::Ints(l.to_vec()));
        let [shape, x_strides, y_strides] = lists;
        ([one(x), y], vec![shape, Scalar::Int(0), x_strides, Scalar::Int(offset as i64), y_strides])
    };
    let wide = (at(6), F32, 2 * N);
    let add = |draft: &mut Draft, (args, scalars): ([(u64, DType, u64); 2], Vec<Scalar>)| {
        draft.step("copy", &args, scalars);
    };
    draft.unary("silu", at(0), at(3));
    add(&mut draft, strided(3, one(4), 0, [1, 1]));
    draft.unary("silu", at(1), at(3));
    add(&mut draft, strided(3, wide, 0, [2 * COLUMNS as i64, 1]));
    draft.unary("tanh", at(2), at(8));
    add(&mut draft, strided(8, wide, COLUMNS, [2 * COLUMNS as i64, 1]));
    draft.unary("neg", at(7), at(5));
    want.push(5);
    // What is written may not be what a normalisation writes besides.
    draft.program(&[0, 1, 2], &[8]);
    layer_norm(&mut draft, 4);
    draft.unary("silu", at(4), at(8));
    want.push(2);
    // Groups of channels.
    draft.program(&[0, 1, 2], &[5, 6]);
    let args = [one(0), (at(1), F32, 8), (at(2), F32, 8), one(5), (at(8), F32, 4), (at(9), F32, 4)];
    let shape = [2, 8, 2, N as i64 / 16].map(Scalar::Int).to_vec();
    draft.step("group_norm", &args, [shape, vec![Scalar::Float(1e-5)]].concat());
    draft.unary("silu", at(5), at(6));
    want.push(1);
    assert_eq!(draft.check(), want);
}

#[test]
fn rounded_results_are_handed_on() {
    use DType::{Bf16, F32};
    let at = |slot: u64| slot * SLOT;
    let mut draft = Draft::new(12);
    let function = |op: &str| vec![Scalar::Word(op.into()), Scalar::Float(0.0), Scalar::Float(0.0)];
    let (rows, columns) = (ROWS as i64, COLUMNS as i64);
    // A normalisation and a function of what it gives.
    draft.program(&[0, 1, 2], &[4]);
    let moments = [(at(8), F32, ROWS), (at(9), F32, ROWS)];
    let operands = [(at(0), F32, N), (at(1), F32, COLUMNS), (at(2), F32, COLUMNS), (at(3), Bf16, N)];
    let scalars = vec![Scalar::Int(rows), Scalar::Int(columns), Scalar::Float(1e-5)];
    draft.step("layer_norm", &[&operands[..], &moments].concat(), scalars);
    draft.step("unary", &[(at(3), Bf16, N), (at(4), F32, N)], function("silu"));
    // A product with a bias, whose operand and result are rounded, a function, a gated unit, and its slope.
    draft.program(&[0, 1, 2], &[7, 10]);
    draft.step("cast", &[(at(0), F32, N), (at(3), Bf16, N)], vec![]);
    let none = || Scalar::Ints(vec![]);
    let sizes = [ROWS, COLUMNS, COLUMNS].map(|v| Scalar::Int(v as i64)).to_vec();
    let strides = vec![Scalar::Ints(vec![columns, 1]); 3];
    let batches = vec![none(), none(), none(), none()];
    let factors = vec![Scalar::Float(0.75), Scalar::Float(0.0)];
    let operands = [(at(3), Bf16, N), (at(1), F32, N), (at(2), F32, COLUMNS), (at(4), Bf16, N)];
    draft.step("gemm", &operands, [sizes, batches, strides, factors].concat());
    draft.step("unary", &[(at(4), Bf16, N), (at(5), Bf16, N)], function("silu"));
    let halves = [function("gelu"), vec![Scalar::Int(columns / 2), Scalar::Int(1)]].concat();
    draft.step("glu", &[(at(5), Bf16, N), (at(6), Bf16, N / 2)], halves);
    draft.step("cast", &[(at(6), Bf16, N / 2), (at(7), F32, N / 2)], vec![]);
    draft.step("unary_grad", &[(at(5), Bf16, N), (at(0), F32, N), (at(10), F32, N)], function("silu"));
    let launches = draft.check();
    assert_eq!(launches.len(), 2);
    assert!(launches[0] == 1 && launches[1] < 6, "{launches:?}");
}

#[test]
fn every_type_goes_through_registers() {
    use DType::{Bf16, Bool, F16, F32, F64, I64, U8};
    let at = |slot: u64| slot * SLOT;
    let mut draft = Draft::new(20);
    let word = |op: &str| Scalar::Word(op.into());
    let function = |op: &str, alpha: f64, beta: f64| vec![word(op), Scalar::Float(alpha), Scalar::Float(beta)];
    let same =
        |op: &str| [vec![word(op)], vec![Scalar::Ints(vec![N as i64]); 1], vec![Scalar::Ints(vec![1]); 2]].concat();
    draft.program(&[0, 1], &[2, 3, 4]);
    // Slot by slot, 8 bytes in two of them: real numbers, whole ones, truth values, halves.
    draft.step("fill", &[(at(5), F32, N)], vec![Scalar::Float(37.5)]);
    draft.step("binary", &[(at(0), F32, N), (at(5), F32, N), (at(6), F32, N)], same("mul"));
    draft.step("cast", &[(at(6), F32, N), (at(8), I64, N)], vec![]);
    draft.step("fill", &[(at(10), I64, N)], vec![Scalar::Float(-7.0)]);
    draft.step("binary", &[(at(8), I64, N), (at(10), I64, N), (at(12), I64, N)], same("mod"));
    draft.step("unary", &[(at(12), I64, N), (at(14), I64, N)], function("abs", 0.0, 0.0));
    draft.step("binary", &[(at(14), I64, N), (at(8), I64, N), (at(7), Bool, N)], same("less"));
    draft.step("unary", &[(at(7), Bool, N), (at(16), Bool, N)], function("not", 0.0, 0.0));
    draft.step("cast", &[(at(14), I64, N), (at(10), F64, N)], vec![]);
    draft.step("unary", &[(at(10), F64, N), (at(12), F64, N)], function("clip", f64::NEG_INFINITY, 3.25));
    draft.step("cast", &[(at(12), F64, N), (at(17), F32, N)], vec![]);
    let select = [vec![Scalar::Ints(vec![N as i64])], vec![Scalar::Ints(vec![1]); 3]].concat();
    draft.step("select", &[(at(16), Bool, N), (at(17), F32, N), (at(1), F32, N), (at(2), F32, N)], select);
    draft.step("cast", &[(at(2), F32, N), (at(18), Bf16, N)], vec![]);
    draft.step("cast", &[(at(18), Bf16, N), (at(3), F32, N)], vec![]);
    draft.step("cast", &[(at(6), F32, N), (at(19), U8, N)], vec![]);
    draft.step("cast", &[(at(19), U8, N), (at(4), F32, N)], vec![]);
    // The other halves.
    draft.program(&[0, 1], &[2, 3]);
    draft.step("cast", &[(at(0), F32, N), (at(18), F16, N)], vec![]);
    draft.step("cast", &[(at(18), F16, N), (at(2), F32, N)], vec![]);
    draft.step("cast", &[(at(18), F16, N), (at(19), U8, N)], vec![]);
    draft.step("cast", &[(at(19), U8, N), (at(3), F32, N)], vec![]);
    assert_eq!(draft.check(), [1, 1]);
}

#[test]
fn random_steps_on_shared_memory_give_the_same_bits() {
    let mut state = 1_u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut draft = Draft::new(6);
    let (mut steps, mut launches) = (0, 0);
    for _ in 0..60 {
        draft.program(&[0, 1, 2, 3, 4, 5], &[0, 1]);
        let length = 4 + draw(12);
        while draft.plan.programs.last().unwrap().steps.len() < length as usize {
            // Now and then a place that overlaps two others.
            let mut place = || draw(5) * SLOT + if draw(8) == 0 { ALIGN } else { 0 };
            let (a, b, c, y) = (place(), place(), place(), place());
            let len = [N, N, ROWS, COLUMNS, 1][draw(5) as usize];
            let apart = |x: u64, len: u64| x + 4 * len <= y || y + 4 * N <= x;
            let unary = ["silu", "tanh", "clip", "gelu", "sigmoid"][draw(5) as usize];
            let binary = ["add", "sub", "mul", "max"][draw(4) as usize];
            let (free, pair) = (apart(a, N), apart(a, N) && apart(b, len));
            match draw(12) {
                11 if free => {
                    // Halves of rows, into the first half of a slot.
                    let [zero, n, gate] =
                        [Scalar::Float(0.0), Scalar::Int(COLUMNS as i64 / 2), Scalar::Int(draw(2) as i64)];
                    let scalars = vec![Scalar::Word(unary.into()), zero.clone(), zero, n, gate];
                    draft.step("glu", &[(a, DType::F32, N), (y, DType::F32, N / 2)], scalars);
                }
                10 if free => {
                    // A transpose.
                    let lists = [[COLUMNS, ROWS], [1, COLUMNS], [ROWS, 1]];
                    let [shape, x, y_strides] = lists.map(|l| Scalar::Ints(l.map(|v| v as i64).to_vec()));
                    let scalars = vec![shape, Scalar::Int(0), x, Scalar::Int(0), y_strides];
                    draft.step("copy", &[(a, DType::F32, N), (y, DType::F32, N)], scalars);
                }
                0..3 if free => draft.unary(unary, a, y),
                3..5 if pair => draft.binary(binary, a, (b, len), y),
                5 if apart(b, len) => draft.in_place(["add", "mul"][draw(2) as usize], (b, len), y),
                6 if free => draft.copy((a, 0), (y, draw(2)), N - 1, 1),
                7 if free => draft.copy((a, N - 1), (y, 0), N, -1),
                8 if free && apart(c, N) => {
                    let scalars = vec![Scalar::Word("silu".into()), Scalar::Float(0.0), Scalar::Float(0.0)];
                    draft.step("unary_grad", &[(a, DType::F32, N), (c, DType::F32, N), (y, DType::F32, N)], scalars);
                }
                9 if free => {
                    // By way of half precision, in the first half of a slot.
                    draft.step("cast", &[(a, DType::F32, N), (y, DType::Bf16, N)], Vec::new());
                    if apart(c, N) {
                        draft.step("cast", &[(y, DType::Bf16, N), (c, DType::F32, N)], Vec::new());
                    }
                }
                _ => {}
            }
        }
        steps += draft.plan.programs.last().unwrap().steps.len();
    }
    launches += draft.check().iter().sum::<usize>();
    println!("{steps} steps in {launches} launches");
    assert!(launches < steps * 3 / 4);
}

/// The launches of `train`, and the sources that were made, of an export's plan.
fn recorded(name: &str, precision: Precision, fuses: bool) -> (usize, BTreeMap<String, Source>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    let case = read_safetensors(&path.with_extension("case.safetensors")).unwrap().0;
    let binding = common::pytorch::inputs(&case).1;
    let model = Model::open(&path.with_extension("onnx")).unwrap();
    let options = TrainOptions { precision, ..TrainOptions::new(binding, Default::default(), Amount::Density(0.05)) };
    let plan = compile_training(&model, &options, &mut unobserved()).unwrap();
    let recorder = Recorder::new(fuses);
    let told = recorder.told();
    let mut executor = Executor::on(plan, 1, None, Some(Box::new(recorder))).unwrap();
    executor.run("train").unwrap();
    let train = executor.plan().programs.iter().position(|p| p.name == "train").unwrap();
    let told = told.lock().unwrap();
    (told.launches[train], told.sources.clone())
}

#[test]
fn training_takes_fewer_launches_whose_sources_compile_without_spills() {
    let nvrtc = Nvrtc::open_or_fetch().unwrap_or_else(|e| panic!("NVRTC is needed for this test: {e}"));
    let mut sources = BTreeMap::new();
    for name in ["ddpm_unet.ts.", "dit.dynamo.", "sd15_unet.ts.", "sd15_unet.dynamo.", "sd3_mmdit.dynamo."] {
        for precision in [Precision::Single, Precision::Bf16, Precision::Fp16] {
            let (apart, _) = recorded(name, precision, false);
            let (fused, made) = recorded(name, precision, true);
            println!("{name} {precision:?}: {apart} launches, {fused} fused, by {} sources", made.len());
            assert!(fused < apart);
            sources.extend(made);
        }
    }
    println!("{} sources", sources.len());
    // Many together are compiled sooner than each by itself.
    let texts: Vec<&str> = sources.values().filter_map(Source::text).collect();
    let parts: Vec<Source> = texts
        .chunks(16)
        .enumerate()
        .map(|(i, texts)| Source::Fused { name: format!("part_{i}").into(), text: texts.concat().into() })
        .collect();
    let archs = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"];
    let work: Vec<_> = parts.iter().flat_map(|source| archs.map(|arch| (source, arch))).collect();
    let next = AtomicUsize::new(0);
    let compile = || {
        while let Some((source, arch)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let log = nvrtc.compile(source, arch).unwrap().log;
            let spills = |l: &&str| l.contains("spill") && !l.contains("0 bytes spill stores, 0 bytes spill loads");
            assert_eq!(log.lines().filter(spills).count(), 0, "{log}\n{}", source.text().unwrap());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(compile);
        }
    });
}
