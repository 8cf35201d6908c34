//! The verifier's rules, one by one, and the file form.

use super::*;
use crate::error::Error;
use sara_kernels::ScalarKind;
use sha2::{Digest, Sha256};
use std::path::Path;

const X: usize = 0;
const TARGET: usize = 1;
const Y: usize = 2;
const LOSS: usize = 3;
const D: usize = 4;
const W: usize = 5;
const INDEX: usize = 6;
const PARAM: usize = 7;
const GRADIENT: usize = 8;
const MOMENT1: usize = 9;
const MOMENT2: usize = 10;
const HYPER: usize = 11;
const CONSTANT: usize = 12;

const TRAIN: usize = 0;
const UPDATE: usize = 1;
const LOW_RANK: usize = 2;

fn id(buffer: usize) -> BufferId {
    BufferId(buffer as u32)
}

fn step(kernel: &str, args: &[usize], scalars: &[Scalar]) -> Step {
    Step {
        kernel: sara_kernels::find(kernel).unwrap(),
        args: args.iter().map(|a| Some(id(*a))).collect(),
        scalars: scalars.to_vec(),
        origin: format!("/{kernel}"),
        part: Part::Again,
    }
}

fn port(name: &str, buffer: usize, shape: &[u64]) -> Port {
    Port { name: name.into(), buffer: id(buffer), shape: shape.to_vec() }
}

/// A plan of one matrix, with every kind of place and of scalar.
fn plan() -> Plan {
    let buffer = |name: &str, dtype, len, place| Buffer { name: name.into(), dtype, len, place };
    let buffers = vec![
        buffer("x", DType::F32, 4, Place::Arena(0)),
        buffer("target", DType::F32, 4, Place::Arena(64)),
        buffer("y", DType::F32, 4, Place::Arena(128)),
        buffer("loss", DType::F32, 1, Place::Arena(0)),
        buffer("d", DType::F32, 2, Place::Arena(64)),
        buffer("w", DType::F32, 6, Place::Weight(0)),
        buffer("w.idx", DType::U32, 2, Place::Index(0)),
        buffer("w.p", DType::F32, 2, Place::Param(0)),
        buffer("w.g", DType::F32, 2, Place::Gradient(0)),
        buffer("w.m", DType::F32, 2, Place::Moment1(0)),
        buffer("w.v", DType::F32, 2, Place::Moment2(0)),
        buffer("hyper", DType::F32, sara_kernels::hyper::LEN as u64, Place::Hyper),
        buffer("c", DType::F32, 4, Place::Constant(0)),
    ];
    let unary = [Scalar::Word("exp".into()), Scalar::Float(0.5), Scalar::Float(-1.0)];
    let rate = [Scalar::Int(sara_kernels::hyper::GRADIENT_SCALE as i64)];
    let train = Program {
        name: "train".into(),
        inputs: vec![port("x", X, &[2, 2]), port("target", TARGET, &[2, 2])],
        outputs: vec![port("loss", LOSS, &[])],
        steps: vec![
            step("unary", &[X, Y], &unary),
            step("mse_loss", &[Y, TARGET, LOSS], &[]),
            step("fill", &[D], &[Scalar::Float(1.0)]),
            step("accumulate", &[D, HYPER, GRADIENT], &rate),
        ],
        arena_bytes: 192,
        peak: Peak { step: 0, live_bytes: 192 },
    };
    let update = Program {
        name: "update".into(),
        inputs: vec![],
        outputs: vec![],
        steps: vec![step("sparse_adamw", &[W, INDEX, PARAM, MOMENT1, MOMENT2, GRADIENT, HYPER], &[])],
        arena_bytes: 0,
        peak: Peak::default(),
    };
    let mut copy = step("unary", &[CONSTANT, Y], &unary);
    copy.origin.clear();
    let low_rank = Program {
        name: "lowrank:w".into(),
        inputs: vec![],
        outputs: vec![],
        steps: vec![
            copy,
            step("fill", &[D], &[Scalar::Float(0.0)]),
            step("accumulate", &[D, HYPER, GRADIENT], &[Scalar::Int(sara_kernels::hyper::LAMBDA_RANK as i64)]),
        ],
        arena_bytes: 192,
        peak: Peak { step: 0, live_bytes: 64 },
    };
    Plan {
        name: "small".into(),
        model: ModelFile {
            path: "/models/small.onnx".into(),
            root: Some("/models".into()),
            bytes: 1234,
            sha256: "ab".repeat(32),
        },
        selection: Selection { threshold: 2e-3, trainable: 2, eligible: 6, total: 9 },
        arena_bytes: 192,
        buffers,
        weights: vec![Weight {
            name: "w".into(),
            path: "/w/MatMul:1".into(),
            shape: vec![2, 3],
            stored: Stored::Bf16,
            file: "small.onnx.data".into(),
            offset: 77,
        }],
        sparse: vec![Sparse {
            weight: 0,
            index: vec![1, 4],
            threshold: 1.5e-3,
            base_sha256: "0d".repeat(32),
            low_rank: Some("lowrank:w".into()),
        }],
        use_8bit_adam: false,
        constants: bytemuck::cast_slice(&[1.0f32, -2.0, 3.5, f32::MIN]).to_vec(),
        programs: vec![train, update, low_rank],
    }
}

/// Adds a weight like the first, as `v`, and its positions.
fn other_weight(plan: &mut Plan) {
    plan.weights.push(Weight { name: "v".into(), path: "/v".into(), ..plan.weights[0].clone() });
    plan.sparse.push(Sparse { weight: 1, ..plan.sparse[0].clone() });
    plan.buffers.push(Buffer { name: "v".into(), dtype: DType::F32, len: 6, place: Place::Weight(1) });
    plan.buffers.push(Buffer { name: "v.idx".into(), dtype: DType::U32, len: 2, place: Place::Index(1) });
    plan.verify().unwrap();
}

/// A way to break a plan, and what it is called.
type Break = (&'static str, fn(&mut Plan));

/// Expects that the sample is valid and that each change breaks `rule` and is reported as that.
fn expect(rule: &str, breaks: &[Break]) {
    plan().verify().unwrap();
    for (what, change) in breaks {
        let mut broken = plan();
        change(&mut broken);
        match broken.verify() {
            Err(Error::Verify { rule: found, reason }) => assert_eq!(found, rule, "{what}: {reason}"),
            other => panic!("{what}: {rule} is broken, and the verifier says {other:?}"),
        }
    }
}

#[test]
fn p01_a_launch_fits_its_kernel() {
    expect(
        "P01",
        &[
            ("an argument too few", |p| p.programs[TRAIN].steps[1].args.truncate(2)),
            ("an argument too many", |p| p.programs[TRAIN].steps[0].args.push(Some(id(HYPER)))),
            ("a required argument is absent", |p| p.programs[TRAIN].steps[0].args[0] = None),
            ("a buffer that is not there", |p| p.programs[TRAIN].steps[0].args[0] = Some(BufferId(99))),
            ("an element type that is not admitted", |p| p.programs[TRAIN].steps[3].args[0] = Some(id(INDEX))),
            ("real numbers of two types", |p| p.buffers[TARGET].dtype = DType::F64),
            ("a scalar too few", |p| drop(p.programs[TRAIN].steps[0].scalars.pop())),
            ("a scalar too many", |p| p.programs[TRAIN].steps[1].scalars.push(Scalar::Int(1))),
            ("a scalar of another kind", |p| p.programs[TRAIN].steps[2].scalars[0] = Scalar::Int(1)),
        ],
    );
}

/// Puts a launch on one element each before all others, of these types, empty where an argument is absent, and with this word.
fn precede(plan: &mut Plan, kernel: &str, types: &[&str], word: &str) {
    let kernel = sara_kernels::find(kernel).unwrap();
    let scalars = kernel.scalars.iter().map(|(_, kind)| match kind {
        ScalarKind::Int => Scalar::Int(0),
        ScalarKind::Float => Scalar::Float(0.0),
        ScalarKind::Ints => Scalar::Ints(vec![]),
        ScalarKind::Word => Scalar::Word(word.into()),
    });
    let scalars = scalars.collect();
    let args = types.iter().map(|name| {
        let dtype = DType::from_name(name)?;
        plan.buffers.push(Buffer { name: "argument".into(), dtype, len: 1, place: Place::Arena(0) });
        Some(id(plan.buffers.len() - 1))
    });
    let args = args.collect();
    plan.programs[TRAIN].steps.insert(0, Step { kernel, args, scalars, origin: String::new(), part: Part::Again });
}

#[test]
fn p01_a_kernel_has_a_form_for_the_types_of_a_launch() {
    expect(
        "P01",
        &[
            ("half precision of two types", |p| precede(p, "gemm", &["bf16", "f16", "", "f32"], "")),
            ("precision of two types", |p| precede(p, "gemm", &["f32", "f64", "", "f32"], "")),
            ("a rounded result of single precision", |p| precede(p, "gemm", &["f32", "f32", "", "bf16"], "")),
            ("a rounded result of fp16", |p| precede(p, "gemm", &["f16", "f32", "", "bf16"], "")),
            ("a rounded source", |p| precede(p, "conv", &["bf16", "f32", "", "f32", ""], "")),
            ("a rounded source beside fp16", |p| precede(p, "conv", &["bf16", "f16", "", "f32", ""], "")),
            ("a rounded gradient", |p| precede(p, "conv_grad_input", &["bf16", "f32", "f32", ""], "")),
            ("rounded queries of single precision", |p| {
                precede(p, "attention", &["bf16", "f32", "f32", "", "f32", "f32"], "")
            }),
            ("a rounded gradient of single precision", |p| {
                let types = ["f32", "f32", "f32", "", "f32", "f32", "f32", "f32", "f32", "bf16"];
                precede(p, "attention_grad", &types, "");
            }),
            ("a rounded operand beside double precision", |p| {
                precede(p, "masked_matmul_grad", &["bf16", "f64", "u32", "f64", "f64"], "")
            }),
            ("a sum of two types", |p| precede(p, "binary", &["f32", "i32", "f32"], "add")),
            ("a sum of another type", |p| precede(p, "binary", &["f32", "f32", "i32"], "add")),
            ("a comparison that is a number", |p| precede(p, "binary", &["f32", "f32", "f32"], "less")),
            ("bits of real numbers", |p| precede(p, "binary", &["f32", "f32", "f32"], "bit_and")),
            ("a function of fp16", |p| precede(p, "unary", &["f16", "f16"], "exp")),
            ("a rounded function of double precision", |p| precede(p, "unary", &["f64", "bf16"], "exp")),
            ("a function of real numbers on integers", |p| precede(p, "unary", &["i32", "i32"], "exp")),
            ("a function that does not exist", |p| precede(p, "unary", &["f32", "f32"], "nothing")),
            ("a gradient of a function that does not exist", |p| {
                precede(p, "unary_grad", &["f32", "f32", "f32"], "nothing")
            }),
            ("two halves of a choice", |p| precede(p, "select", &["bool", "f32", "f64", "f32"], "")),
            ("a conversion between halves", |p| precede(p, "cast", &["bf16", "f16"], "")),
            ("a conversion of half precision to integers", |p| precede(p, "cast", &["bf16", "i32"], "")),
            ("a copy to another type", |p| precede(p, "copy", &["f32", "bf16"], "")),
            ("a gathered copy to another type", |p| precede(p, "gather", &["f32", "i64", "f64"], "")),
            ("double precision from a file of single precision", |p| {
                precede(p, "fetch", &["u8", "", "", "f64"], "f32")
            }),
            ("a sum over integers that is real", |p| precede(p, "reduce", &["i32", "f32"], "sum")),
        ],
    );
    let mut broken = plan();
    precede(&mut broken, "gemm", &["f32", "f32", "", "bf16"], "");
    let said = broken.verify().unwrap_err().to_string();
    assert!(said.contains("step 0 of `train` (gemm): ") && said.contains(": a f32, b f32, c bf16"), "{said}");
}

#[test]
fn p02_a_buffer_lies_in_its_region() {
    expect(
        "P02",
        &[
            ("not aligned in the arena", |p| p.buffers[X].place = Place::Arena(4)),
            ("beyond the arena", |p| p.buffers[Y].place = Place::Arena(192)),
            ("longer than the arena", |p| p.buffers[Y].len = 17),
            ("at the end of all addresses", |p| p.buffers[Y].place = Place::Arena(u64::MAX - 63)),
            ("more bytes than can be counted", |p| p.buffers[Y].len = u64::MAX / 2),
            ("beyond the constants", |p| p.buffers[CONSTANT].place = Place::Constant(64)),
            ("longer than the constants", |p| p.constants.truncate(15)),
            ("a weight of another length", |p| p.buffers[W].len = 7),
            ("a weight of another type", |p| p.buffers[W].dtype = DType::I32),
            ("a weight that is not there", |p| p.buffers[W].place = Place::Weight(1)),
            ("an index of another length", |p| p.buffers[INDEX].len = 3),
            ("an index of another type", |p| p.buffers[INDEX].dtype = DType::I32),
            ("an index that is not there", |p| p.buffers[INDEX].place = Place::Index(1)),
            ("values of another length", |p| p.buffers[PARAM].len = 1),
            ("a gradient of another type", |p| p.buffers[GRADIENT].dtype = DType::F64),
            ("a first moment that is not there", |p| p.buffers[MOMENT1].place = Place::Moment1(1)),
            ("a second moment of another length", |p| p.buffers[MOMENT2].len = 3),
            ("moments of another type", |p| p.use_8bit_adam = true),
            ("a scale of moments of another length", |p| p.buffers[MOMENT1].place = Place::Absmax1(0)),
            ("hyper-parameters of another length", |p| p.buffers[HYPER].len -= 1),
            ("hyper-parameters of another type", |p| p.buffers[HYPER].dtype = DType::F64),
        ],
    );
}

#[test]
fn p03_what_is_written_overlaps_nothing_in_its_launch() {
    expect(
        "P03",
        &[
            ("one buffer twice", |p| p.programs[TRAIN].steps[0].args[1] = Some(id(X))),
            ("two buffers at one place", |p| p.buffers[Y].place = Place::Arena(0)),
            ("two buffers that overlap in part", |p| {
                p.buffers[X].len = 20;
                p.programs[TRAIN].inputs[0].shape = vec![20];
                p.buffers[Y].place = Place::Arena(64);
            }),
            ("state twice", |p| p.programs[TRAIN].steps[3].args[0] = Some(id(GRADIENT))),
            ("another name of one state", |p| {
                let mut twin = p.buffers[PARAM].clone();
                twin.name = "twin".into();
                p.buffers.push(twin);
                let last = p.buffers.len() - 1;
                p.programs[UPDATE].steps[0].args[3] = Some(id(last));
            }),
        ],
    );
}

#[test]
fn p04_what_is_alive_together_does_not_overlap() {
    expect(
        "P04",
        &[
            // `target` waits for step 1 and is no argument of step 0, which writes `y`.
            ("a result over a waiting input", |p| p.buffers[TARGET].place = Place::Arena(128)),
            ("a result over an output", |p| p.buffers[D].place = Place::Arena(0)),
            ("a long buffer over the next", |p| {
                p.buffers[X].len = 20;
                p.programs[TRAIN].inputs[0].shape = vec![20];
            }),
        ],
    );
}

#[test]
fn p05_nothing_is_read_before_it_is_written() {
    expect(
        "P05",
        &[
            ("a launch reads what nothing wrote", |p| p.programs[TRAIN].steps[0].args[0] = Some(id(LOSS))),
            ("a launch reads what is written later", |p| p.programs[TRAIN].steps.swap(0, 1)),
            ("an input is not set", |p| drop(p.programs[TRAIN].inputs.pop())),
            ("an output is not written", |p| p.programs[UPDATE].outputs = vec![port("y", Y, &[4])]),
            // `d` before it is filled.
            ("a scatter into nothing", |p| p.programs[TRAIN].steps.insert(2, step("scatter", &[PARAM, INDEX, D], &[]))),
            ("a sum of squares upon nothing", |p| {
                let place = Place::Arena(64);
                p.buffers.push(Buffer { name: "sums".into(), dtype: DType::F64, len: 1, place });
                let sums = p.buffers.len() - 1;
                p.programs[LOW_RANK].steps.push(step("sum_squares", &[PARAM, sums], &[Scalar::Int(0)]));
            }),
            ("a norm of nothing", |p| p.programs[TRAIN].steps.insert(2, step("normalize", &[D], &[]))),
            ("a product that is added to nothing", |p| p.programs[TRAIN].steps[2] = product(1.0)),
            ("a product that is smaller than what is read", |p| {
                p.programs[TRAIN].steps[2] = product(0.0);
                p.programs[TRAIN].steps[2].scalars[0] = Scalar::Int(1);
            }),
            ("a copy of a part", |p| p.programs[TRAIN].steps[2] = copy(1, 1)),
            ("a copy to one place", |p| p.programs[TRAIN].steps[2] = copy(2, 0)),
            ("an output that is written in part", |p| {
                p.programs[TRAIN].outputs.push(port("d", D, &[2]));
                p.programs[TRAIN].steps[2] = copy(1, 1);
                p.programs[TRAIN].steps.pop();
            }),
        ],
    );
}

/// `d` as a product of `x` and `w.p`, of two rows.
fn product(beta: f64) -> Step {
    let none = || Scalar::Ints(vec![]);
    let ints = |v: [i64; 2]| Scalar::Ints(v.to_vec());
    let mut scalars = vec![Scalar::Int(2), Scalar::Int(1), Scalar::Int(2), none(), none(), none(), none()];
    scalars.extend([ints([2, 1]), ints([1, 1]), ints([1, 1]), Scalar::Float(1.0), Scalar::Float(beta)]);
    gemm([X, PARAM, D], &scalars)
}

/// A product without a bias.
fn gemm([a, b, c]: [usize; 3], scalars: &[Scalar]) -> Step {
    let mut step = step("gemm", &[a, b, c], scalars);
    step.args.insert(2, None);
    step
}

/// `d` as a copy of some of the constant.
fn copy(count: i64, stride: i64) -> Step {
    let ints = |v: i64| Scalar::Ints(vec![v]);
    step("copy", &[CONSTANT, D], &[ints(count), Scalar::Int(0), ints(1), Scalar::Int(0), ints(stride)])
}

#[test]
fn what_updates_may_also_write_anew() {
    for steps in [vec![product(0.0)], vec![copy(2, 1)], vec![copy(1, 1), copy(1, 1)], vec![product(0.0), product(1.0)]]
    {
        let mut plan = plan();
        // The launches come before anything else, so that `x` is alive as an input.
        plan.buffers[D].place = Place::Arena(192);
        let train = &mut plan.programs[TRAIN];
        train.steps.remove(2);
        for (i, step) in steps.into_iter().enumerate() {
            train.steps.insert(i, step);
        }
        train.arena_bytes = 256;
        plan.programs[LOW_RANK].arena_bytes = 256;
        plan.arena_bytes = 256;
        let live = match plan.verify() {
            Err(Error::Verify { rule: "P09", reason }) => reason,
            other => panic!("only the peak is another: {other:?}"),
        };
        assert!(live.contains("busiest step"), "{live}");
    }
}

#[test]
fn p06_state_is_written_by_its_programs_only() {
    expect(
        "P06",
        &[
            ("a constant", |p| p.programs[LOW_RANK].steps[1].args[0] = Some(id(CONSTANT))),
            ("a constant in the update", |p| {
                p.programs[UPDATE].steps.push(step("fill", &[CONSTANT], &[Scalar::Float(0.0)]))
            }),
            ("an index in the update", |p| {
                p.programs[UPDATE].steps.push(step("fill", &[INDEX], &[Scalar::Float(0.0)]))
            }),
            ("a weight in the training step", |p| {
                p.programs[TRAIN].steps.push(step("fill", &[W], &[Scalar::Float(0.0)]))
            }),
            ("values in a low-rank program", |p| p.programs[LOW_RANK].steps[2].args[2] = Some(id(PARAM))),
            ("a first moment in the training step", |p| p.programs[TRAIN].steps[3].args[2] = Some(id(MOMENT1))),
            ("a second moment in the training step", |p| p.programs[TRAIN].steps[3].args[2] = Some(id(MOMENT2))),
            ("hyper-parameters in the training step", |p| {
                p.programs[TRAIN].steps.push(step("fill", &[HYPER], &[Scalar::Float(0.0)]));
            }),
            ("a gradient in another program", |p| p.programs[TRAIN].name = "forward".into()),
            ("a weight in another program", |p| p.programs[UPDATE].name = "forward".into()),
        ],
    );
}

#[test]
fn p07_positions_ascend_inside_their_weight() {
    expect(
        "P07",
        &[
            ("descending", |p| p.sparse[0].index = vec![4, 1]),
            ("twice the same", |p| p.sparse[0].index = vec![4, 4]),
            ("outside", |p| p.sparse[0].index = vec![1, 6]),
            ("a weight that is not there", |p| p.sparse[0].weight = 1),
            ("a weight that is sparse twice", |p| p.sparse.push(p.sparse[0].clone())),
            ("a weight of integers", |p| p.weights[0].stored = Stored::Plain(DType::I32)),
            ("a threshold that is no number", |p| p.sparse[0].threshold = f64::NAN),
            ("a threshold below 0", |p| p.sparse[0].threshold = -1.0),
            ("no hash of the base", |p| p.sparse[0].base_sha256.clear()),
            ("a hash in other letters", |p| p.sparse[0].base_sha256 = "0D".repeat(32)),
            ("a low-rank program that is not there", |p| p.sparse[0].low_rank = Some("lowrank:v".into())),
            ("positions that are a constant", |p| {
                p.buffers.push(Buffer { name: "i".into(), dtype: DType::U32, len: 2, place: Place::Constant(0) });
                p.programs[UPDATE].steps[0].args[1] = Some(id(CONSTANT + 1));
            }),
            ("positions of another weight", |p| {
                other_weight(p);
                p.programs[UPDATE].steps[0].args[1] = Some(id(CONSTANT + 2));
            }),
            ("values of another weight", |p| {
                other_weight(p);
                let place = Place::Param(1);
                p.buffers.push(Buffer { name: "v.p".into(), dtype: DType::F32, len: 2, place });
                p.programs[UPDATE].steps[0].args[2] = Some(id(CONSTANT + 3));
            }),
            ("a weight beside positions of another", |p| {
                other_weight(p);
                p.programs[UPDATE].steps[0].args[0] = Some(id(CONSTANT + 1));
            }),
        ],
    );
}

#[test]
fn p08_ports_fit_and_names_are_unique() {
    expect(
        "P08",
        &[
            ("two programs of one name", |p| p.programs.push(p.programs[UPDATE].clone())),
            ("an input of another shape", |p| p.programs[TRAIN].inputs[0].shape = vec![2, 3]),
            ("an output of another shape", |p| p.programs[TRAIN].outputs[0].shape = vec![2]),
            ("a shape too large to count", |p| p.programs[TRAIN].inputs[0].shape = vec![1 << 40, 1 << 40]),
            ("a buffer that is not there", |p| p.programs[TRAIN].inputs[0].buffer = BufferId(99)),
        ],
    );
}

#[test]
fn p09_recorded_sizes_are_needed_sizes() {
    expect(
        "P09",
        &[
            ("the arena is too large", |p| p.arena_bytes += 64),
            ("a program needs less", |p| p.programs[TRAIN].arena_bytes = 256),
            ("a program needs more", |p| p.programs[LOW_RANK].arena_bytes = 64),
            ("the busiest step is another", |p| p.programs[TRAIN].peak.step = 1),
            ("the busiest step needs less", |p| p.programs[LOW_RANK].peak.live_bytes = 128),
        ],
    );
}

/// Saves the sample into a folder and returns the file's path and bytes.
fn saved(folder: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let path = folder.join("small.plan");
    plan().save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

/// Bytes before the hash: magic and version.
const HEAD: usize = 13;

#[test]
fn a_plan_survives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = saved(folder.path());
    let read = Plan::load(&path).unwrap();
    assert_eq!(read, plan());
    read.save(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the same plan has the same bytes");
}

#[test]
fn every_truncation_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = saved(folder.path());
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let error = Plan::load(&path).expect_err("a part of a plan loads").to_string();
        let expected = if len < 9 { "is not a plan" } else { "damaged" };
        assert!(error.contains(expected) && error.contains("small.plan"), "{len} bytes: {error}");
    }
    std::fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
    Plan::load(&path).expect_err("a plan with a byte more loads");
}

#[test]
fn every_changed_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut bytes) = saved(folder.path());
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            bytes[at] ^= flip;
            std::fs::write(&path, &bytes).unwrap();
            let error = Plan::load(&path).expect_err("a changed plan loads").to_string();
            let expected = match at {
                0..9 => "is not a plan",
                9..HEAD => "of version",
                _ => "damaged",
            };
            assert!(error.contains(expected), "byte {at}: {error}");
            bytes[at] ^= flip;
        }
    }
}

/// The hash finds accidents. What a hash cannot find, such as a faulty writer, the verifier must: whatever loads is verified.
#[test]
fn a_changed_plan_with_a_fitting_hash_is_refused_or_legal() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = saved(folder.path());
    let payload = &bytes[HEAD + 32..];
    let (mut refused, mut legal) = (0, 0);
    for at in 0..payload.len() {
        for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
            let mut changed = payload.to_vec();
            changed[at] ^= flip;
            let file = [&bytes[..HEAD], &Sha256::digest(&changed), &changed].concat();
            std::fs::write(&path, file).unwrap();
            match Plan::load(&path) {
                Ok(plan) => {
                    plan.verify().unwrap();
                    legal += 1;
                }
                Err(Error::File { .. }) => refused += 1,
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }
    // Names, hashes and offsets of the model may be anything; everything else is structure.
    assert!(refused > 500 && legal > 100, "{refused} refused, {legal} legal");
}

#[test]
fn another_format_or_version_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = saved(folder.path());
    std::fs::write(&path, b"PK\x03\x04 something else").unwrap();
    let error = Plan::load(&path).unwrap_err().to_string();
    assert!(error.contains("small.plan: is not a plan; make one with `sara compile`"), "{error}");
    let mut newer = bytes;
    newer[9..HEAD].copy_from_slice(&14u32.to_le_bytes());
    std::fs::write(&path, newer).unwrap();
    let error = Plan::load(&path).unwrap_err().to_string();
    assert!(error.contains("is a plan of version 14, and this sara reads version 13"), "{error}");
}

#[test]
fn a_plan_that_breaks_a_rule_does_not_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.plan");
    let mut broken = plan();
    broken.buffers[TARGET].place = Place::Arena(128);
    broken.save(&path).unwrap();
    let error = Plan::load(&path).unwrap_err().to_string();
    assert!(error.contains("broken.plan") && error.contains("P04"), "{error}");
}
