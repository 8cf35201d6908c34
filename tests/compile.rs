//! Small models through the whole compiler: which weights train, what is refused and why, and that all else compiles.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod common;

use common::{Dim, Tensor, Value, bytes, declare, graph, model, node, noise};
use onnx_protobuf::{ModelProto, NodeProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use protobuf::EnumOrUnknown;
use regex::Regex;
use sara_compiler::Error;
use sara_compiler::compile::{TrainOptions, canonical, compile_forward, compile_training, unobserved};
use sara_compiler::import::{Binding, Model};
use sara_compiler::ir::verify::verify;
use sara_compiler::ir::{Def, Graph, Stage};
use sara_compiler::select::{self, Amount, Pick, Role, Scope};
use sara_kernels::cuda::MatmulPrecision;
use sara_runtime::executor::{Executor, Site, memory};
use sara_runtime::oracle::OracleType::*;
use sara_runtime::plan::Plan;
use std::path::PathBuf;
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new(model: &ModelProto) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.onnx"), bytes(model)).unwrap();
        Folder(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.onnx")
    }

    fn open(&self) -> Model {
        Model::open(&self.path()).unwrap()
    }

    fn graph(&self) -> Graph {
        canonical(&self.open(), &Binding::default(), &mut unobserved()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The role of the weight `name`.
    fn role(&self, name: &str) -> Role {
        let graph = self.graph();
        let weight = graph.weights.iter().position(|w| w.name == name).unwrap();
        select::roles(&graph)[&weight]
    }

    /// Compiles for training half of each weight.
    fn train(&self, scope: Scope, exclude: Option<&str>) -> Result<Plan, String> {
        let select =
            select::Options { scope, exclude: exclude.map(|e| Regex::new(e).unwrap()), ..select::Options::default() };
        let options = TrainOptions::new(Binding::default(), select, Amount::Density(0.5));
        compile_training(&self.open(), &options, &mut unobserved()).map_err(|e| e.to_string())
    }

    /// Names of the weights that train.
    #[track_caller]
    fn trained(&self, scope: Scope) -> Vec<String> {
        let plan = self.train(scope, None).unwrap_or_else(|e| panic!("{e}"));
        plan.sparse.iter().map(|s| plan.weights[s.weight as usize].name.clone()).collect()
    }
}

/// The entries of `w`, 40 by 50, that are picked.
fn picked(pick: Pick, amount: Amount) -> Result<(Vec<f64>, Vec<u32>), String> {
    let nodes = vec![node("MatMul", &["x", "w"], &["h"], &[]), node("MatMul", &["h", "v"], &["y"], &[])];
    let folder = Folder::new(&plain(nodes, &[2, 40], vec![floats("w", &[40, 50]), floats("v", &[50, 3])]));
    let graph = folder.graph();
    let options = select::Options { pick, exclude: Some(Regex::new("^v$").unwrap()), ..select::Options::default() };
    let chosen = select::choose(&folder.open(), &graph, &options, amount, 2).map_err(|e| e.to_string())?;
    let (_, index) = chosen.index.into_iter().next().unwrap();
    Ok((noise(1, 2000), index))
}

#[test]
fn the_smallest_the_largest_or_drawn_entries_are_picked() {
    let size = |w: &[f64], i: u32| w[i as usize].abs();
    for amount in [Amount::Count(300), Amount::Density(0.15)] {
        let (w, smallest) = picked(Pick::Smallest, amount).unwrap();
        let (_, largest) = picked(Pick::Largest, amount).unwrap();
        assert_eq!((smallest.len(), largest.len()), (300, 300));
        let bound = |index: &[u32], from: f64, f: fn(f64, f64) -> f64| index.iter().map(|i| size(&w, *i)).fold(from, f);
        let others = |index: &[u32]| (0..2000).filter(|i| !index.contains(i)).collect::<Vec<u32>>();
        assert!(bound(&smallest, 0.0, f64::max) < bound(&others(&smallest), f64::MAX, f64::min));
        assert!(bound(&largest, f64::MAX, f64::min) > bound(&others(&largest), 0.0, f64::max));
        let (_, drawn) = picked(Pick::Random(1), amount).unwrap();
        assert!((250..350).contains(&drawn.len()) && drawn.is_sorted());
        assert_eq!(picked(Pick::Random(1), amount).unwrap().1, drawn);
        assert_ne!(picked(Pick::Random(2), amount).unwrap().1, drawn);
        let mean = drawn.iter().map(|i| size(&w, *i)).sum::<f64>() / drawn.len() as f64;
        let all = (0..2000).map(|i| size(&w, i)).sum::<f64>() / 2000.0;
        assert!((mean / all - 1.0).abs() < 0.15, "{mean} of {all}");
    }
    for pick in [Pick::Largest, Pick::Random(1)] {
        assert!(picked(pick, Amount::Threshold(0.1)).unwrap_err().contains("--trainable-params"));
    }
}

fn floats(name: &str, shape: &[usize]) -> TensorProto {
    Tensor::new(F32, shape, &noise(name.len() as u64, shape.iter().product())).proto(name)
}

/// A model of one input `x`.
fn plain(nodes: Vec<NodeProto>, x: &[usize], weights: Vec<TensorProto>) -> ModelProto {
    let dims: Vec<Dim> = x.iter().map(|d| Dim::Fixed(*d)).collect();
    model(18, graph(nodes, vec![declare("x", F32, &dims)], weights, &["y"]))
}

fn perm(perm: &[i64]) -> [(&'static str, Value); 1] {
    [("perm", Value::Ints(perm.to_vec()))]
}

/// A product with `v` stands last in every model, so that something trains.
fn last(from: &str) -> NodeProto {
    node("MatMul", &[from, "v"], &["y"], &[])
}

#[test]
fn a_tied_table_does_not_train() {
    let nodes = vec![
        node("Gather", &["w", "i"], &["e"], &[]),
        node("MatMul", &["e", "v"], &["h"], &[]),
        node("Transpose", &["w"], &["t"], &perm(&[1, 0])),
        node("MatMul", &["h", "t"], &["y"], &[]),
    ];
    let inputs = vec![declare("i", I64, &[Dim::Fixed(5)])];
    let folder =
        Folder::new(&model(18, graph(nodes, inputs, vec![floats("w", &[7, 4]), floats("v", &[4, 4])], &["y"])));
    assert!(matches!(folder.role("w"), Role::Untrainable(_)));
    assert_eq!(folder.trained(Scope::Matrices), ["v"]);
    assert_eq!(folder.trained(Scope::All), ["v"]);
}

/// What no product multiplies by may keep a gradient of its own size.
#[test]
fn tables_vectors_and_elementwise_parameters_train() {
    let nodes = vec![
        node("Gather", &["table", "i"], &["e"], &[]),
        node("Expand", &["row", "shape"], &["r"], &[]),
        node("Add", &["e", "r"], &["a"], &[]),
        node("Tanh", &["gate"], &["g"], &[]),
        node("Mul", &["a", "g"], &["b"], &[]),
        node("Add", &["b", "bias"], &["c"], &[]),
        last("c"),
    ];
    let inputs = vec![declare("i", I64, &[Dim::Fixed(5)])];
    let weights = vec![
        floats("table", &[7, 4]),
        floats("row", &[1, 4]),
        Tensor::new(I64, &[2], &[5.0, 4.0]).proto("shape"),
        floats("gate", &[5, 4]),
        floats("bias", &[4]),
        floats("v", &[4, 3]),
    ];
    let folder = Folder::new(&model(18, graph(nodes, inputs, weights, &["y"])));
    assert_eq!(folder.trained(Scope::Matrices), ["v"]);
    assert_eq!(folder.trained(Scope::All), ["table", "row", "gate", "bias", "v"]);
}

/// Matrices that reach a product through anything but a view keep a dense gradient, so they do not train.
#[test]
fn matrices_behind_other_operators_do_not_train() {
    let product = || node("MatMul", &["x", "m"], &["h"], &[]);
    let tests: Vec<(&str, Vec<NodeProto>, Vec<TensorProto>)> = vec![
        (
            "packed",
            vec![
                node("Split", &["w"], &["m", "n"], &[("axis", Value::Int(1)), ("num_outputs", Value::Int(2))]),
                product(),
                node("MatMul", &["x", "n"], &["k"], &[]),
                node("Add", &["h", "k"], &["s"], &[]),
                last("s"),
            ],
            vec![floats("w", &[3, 8])],
        ),
        (
            "concatenated",
            vec![node("Concat", &["w", "u"], &["m"], &[("axis", Value::Int(1))]), product(), last("h")],
            vec![floats("w", &[3, 2]), floats("u", &[3, 2])],
        ),
        (
            "scaled",
            vec![node("Mul", &["w", "g"], &["m"], &[]), product(), last("h")],
            vec![floats("w", &[3, 4]), floats("g", &[4])],
        ),
        ("elementwise", vec![node("Tanh", &["w"], &["m"], &[]), product(), last("h")], vec![floats("w", &[3, 4])]),
        (
            "chosen",
            vec![node("Where", &["mask", "w", "u"], &["m"], &[]), product(), last("h")],
            vec![
                floats("w", &[3, 4]),
                floats("u", &[3, 4]),
                Tensor::new(Bool, &[3, 4], &[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]).proto("mask"),
            ],
        ),
        ("batched", vec![node("MatMul", &["x", "w"], &["h"], &[]), last("h")], vec![floats("w", &[2, 3, 4])]),
        ("batch of one", vec![node("MatMul", &["x", "w"], &["h"], &[]), last("h")], vec![floats("w", &[1, 3, 4])]),
    ];
    for (name, nodes, mut weights) in tests {
        weights.push(floats("v", &[4, 2]));
        let folder = Folder::new(&plain(nodes, &[2, 5, 3], weights));
        assert!(matches!(folder.role("w"), Role::Untrainable(_)), "{name}: {:?}", folder.role("w"));
        assert_eq!(folder.trained(Scope::Matrices), ["v"], "{name}");
        assert_eq!(folder.trained(Scope::All), ["v"], "{name}");
    }
}

/// Views and scalar factors keep a matrix trainable.
#[test]
fn matrices_behind_views_train() {
    let shape = Tensor::new(I64, &[2], &[3.0, 4.0]).proto("shape");
    let half = Tensor::new(F32, &[1, 1], &[0.5]).proto("half");
    let nodes = vec![
        node("Reshape", &["w", "shape"], &["r"], &[]),
        node("Mul", &["r", "half"], &["m"], &[]),
        node("MatMul", &["x", "m"], &["h"], &[]),
        last("h"),
    ];
    let folder = Folder::new(&plain(nodes, &[2, 5, 3], vec![floats("w", &[12]), shape, half, floats("v", &[4, 2])]));
    assert_eq!(folder.trained(Scope::Matrices), ["w", "v"]);
}

/// A transposed operand of any rank, on either side, folds into the product, whose gradient is still sampled.
#[test]
fn products_with_transposed_operands_train() {
    for x in [&[4, 5][..], &[3, 4, 5], &[2, 3, 4, 5], &[1, 1, 4, 5], &[2, 1, 3, 4, 5]] {
        let rank = x.len() as i64;
        let mut turn: Vec<i64> = (0..rank).collect();
        turn.swap(x.len() - 1, x.len() - 2);
        let nodes =
            vec![node("Transpose", &["x"], &["t"], &perm(&turn)), node("MatMul", &["t", "w"], &["h"], &[]), last("h")];
        let folder = Folder::new(&plain(nodes, x, vec![floats("w", &[4, 6]), floats("v", &[6, 2])]));
        assert_eq!(folder.trained(Scope::Matrices), ["w", "v"], "{x:?}");
        let nodes =
            vec![node("Transpose", &["x"], &["t"], &perm(&turn)), node("MatMul", &["w", "t"], &["h"], &[]), last("h")];
        let folder = Folder::new(&plain(nodes, x, vec![floats("w", &[6, 5]), floats("v", &[4, 2])]));
        assert_eq!(folder.trained(Scope::Matrices), ["w", "v"], "left of {x:?}");
    }
}

#[test]
fn names_of_the_loss_are_refused() {
    let input = model(
        18,
        graph(
            vec![node("MatMul", &["target", "v"], &["y"], &[])],
            vec![declare("target", F32, &[Dim::Fixed(2), Dim::Fixed(3)])],
            vec![floats("v", &[3, 2])],
            &["y"],
        ),
    );
    let refusal = Folder::new(&input).train(Scope::Matrices, None).unwrap_err();
    assert!(refusal.contains("input called `target`") && refusal.contains("rename it"), "{refusal}");
    let mut output = plain(vec![node("MatMul", &["x", "v"], &["loss"], &[])], &[2, 3], vec![floats("v", &[3, 2])]);
    output.graph.as_mut().unwrap().output[0].name = "loss".to_owned();
    let refusal = Folder::new(&output).train(Scope::Matrices, None).unwrap_err();
    assert!(refusal.contains("output called `loss`") && refusal.contains("rename it"), "{refusal}");
    // Neither stands in the way of inference.
    for model in [&input, &output] {
        let folder = Folder::new(model);
        compile_forward(&folder.open(), &Binding::default(), &mut unobserved()).unwrap();
    }
}

/// A matrix of `rows` rows of 4 that lies at byte `offset` of `w.bin`.
fn shared(name: &str, rows: usize, offset: usize) -> TensorProto {
    let mut tensor = floats(name, &[rows, 4]);
    tensor.raw_data.clear();
    tensor.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
    for (key, value) in [("location", "w.bin".to_owned()), ("offset", offset.to_string())] {
        let mut entry = StringStringEntryProto::new();
        entry.key = key.to_owned();
        entry.value = value;
        tensor.external_data.push(entry);
    }
    tensor
}

fn sharing(a: TensorProto, b: TensorProto) -> Folder {
    let nodes = vec![node("MatMul", &["x", "a"], &["h"], &[]), node("MatMul", &["h", "b"], &["y"], &[])];
    let folder = Folder::new(&plain(nodes, &[2, 4], vec![a, b]));
    let content: Vec<u8> = noise(5, 40).into_iter().flat_map(|v| (v as f32).to_le_bytes()).collect();
    std::fs::write(folder.0.path().join("w.bin"), content).unwrap();
    folder
}

#[test]
fn weights_that_share_all_bytes_are_one() {
    let folder = sharing(shared("a", 4, 16), shared("b", 4, 16));
    assert_eq!(folder.trained(Scope::Matrices), ["a"]);
    let graph = folder.graph();
    assert_eq!(graph.values().filter(|(_, v)| matches!(v.def, Def::Weight(_))).count(), 1);
}

#[test]
fn weights_that_share_some_bytes_are_refused() {
    let folder = sharing(shared("a", 4, 0), shared("b", 4, 32));
    let refusal = folder.train(Scope::Matrices, None).unwrap_err();
    for word in ["`a`", "`b`", "w.bin", "--exclude"] {
        assert!(refusal.contains(word), "no {word:?} in: {refusal}");
    }
    // The other would change with it.
    assert!(folder.train(Scope::Matrices, Some("^b$")).unwrap_err().contains("`b`"));
    assert_eq!(sharing(shared("a", 4, 0), shared("b", 4, 64)).trained(Scope::Matrices), ["a", "b"]);
}

/// A share of a layer is that share, also where many entries are equal.
#[test]
fn equal_entries_are_cut_by_position() {
    for (values, expected) in [([0.0; 8], [0, 1, 2, 3]), ([1.0, -1.0, 0.5, 1.0, -0.5, 1.0, 1.0, 1.0], [0, 1, 2, 4])] {
        let w = Tensor::new(F32, &[4, 2], &values).proto("w");
        let folder = Folder::new(&plain(vec![node("MatMul", &["x", "w"], &["y"], &[])], &[3, 4], vec![w]));
        let plan = folder.train(Scope::Matrices, None).unwrap();
        assert_eq!(plan.sparse[0].index, expected);
    }
}

/// A model that computes nothing is a plan without steps, which still runs.
#[test]
fn a_model_of_views_runs() {
    let shape = Tensor::new(I64, &[2], &[3.0, 2.0]).proto("shape");
    let nodes = vec![
        node("Identity", &["x"], &["i"], &[]),
        node("Dropout", &["i"], &["d"], &[]),
        node("Reshape", &["d", "shape"], &["y"], &[]),
    ];
    let folder = Folder::new(&plain(nodes, &[2, 3], vec![shape]));
    let plan =
        compile_forward(&folder.open(), &Binding::default(), &mut unobserved()).unwrap_or_else(|e| panic!("{e}"));
    let mut executor = Executor::new(plan, 1, Some(&folder.path())).unwrap();
    let values = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let x = sara_runtime::tensor::Tensor::f32(&[2, 3], values.clone()).unwrap();
    executor.set_input("forward", "x", &x).unwrap();
    executor.run("forward").unwrap();
    let y = executor.output("forward", "y").unwrap();
    assert_eq!(y.shape(), [3, 2]);
    assert_eq!(y.to_f32(), values);
}

/// Spaces of up to 16 dimensions are walked, more are refused with a reason.
#[test]
fn many_dimensions_are_walked_or_refused() {
    let build = |rank: usize, op: &str| {
        let dims = vec![2; rank];
        let turn: Vec<i64> = (0..rank as i64).rev().collect();
        let twice = Tensor::new(I64, &[rank], &vec![2.0; rank]).proto("twice");
        let n = match op {
            "Transpose" => node(op, &["x"], &["y"], &perm(&turn)),
            _ => node(op, &["x", "twice"], &["y"], &[]),
        };
        Folder::new(&plain(vec![n], &dims, vec![twice]))
    };
    for (op, ranks) in [("Transpose", [9, 16]), ("Tile", [5, 8])] {
        for rank in ranks {
            let folder = build(rank, op);
            let plan = compile_forward(&folder.open(), &Binding::default(), &mut unobserved()).unwrap();
            let mut executor = Executor::new(plan, 1, Some(&folder.path())).unwrap();
            let values: Vec<f32> = (0..1 << rank).map(|i| i as f32).collect();
            let x = sara_runtime::tensor::Tensor::f32(&vec![2; rank], values).unwrap();
            executor.set_input("forward", "x", &x).unwrap();
            executor.run("forward").unwrap();
            if op == "Transpose" {
                let y = executor.output("forward", "y").unwrap().to_f32();
                let turned = |i: usize| (i.reverse_bits() >> (usize::BITS as usize - rank)) as f32;
                assert!(y.iter().enumerate().all(|(i, v)| *v == turned(i)));
            }
        }
    }
    for (op, rank) in [("Transpose", 17), ("Tile", 9)] {
        let refusal = compile_forward(&build(rank, op).open(), &Binding::default(), &mut unobserved()).err().unwrap();
        assert!(refusal.to_string().contains("dimensions"), "{refusal}");
    }
}

/// `y = x * f(t)` for a scalar `t`, where `nodes` make `e` of `t`.
fn timed(batch: usize, nodes: Vec<NodeProto>) -> Folder {
    let mut all = nodes;
    all.push(node("Unsqueeze", &["e", "zero"], &["a"], &[]));
    all.push(node("Unsqueeze", &["a", "one"], &["b"], &[]));
    all.push(node("Mul", &["x", "b"], &["y"], &[]));
    let inputs = vec![declare("x", F32, &[Dim::Fixed(batch), Dim::Fixed(3)]), declare("t", F32, &[])];
    let weights = vec![
        Tensor::new(I64, &[1], &[0.0]).proto("zero"),
        Tensor::new(I64, &[1], &[1.0]).proto("one"),
        Tensor::new(F32, &[], &[1000.0]).proto("thousand"),
        Tensor::new(F32, &[3], &[1.0, 2.0, 3.0]).proto("row"),
    ];
    Folder::new(&model(18, graph(all, inputs, weights, &["y"])))
}

#[test]
fn arithmetic_on_a_scalar_timestep_is_per_sample() {
    for nodes in [
        vec![node("Mul", &["t", "thousand"], &["e"], &[])],
        vec![node("Sub", &["thousand", "t"], &["s"], &[]), node("Neg", &["s"], &["e"], &[])],
        vec![node("Mul", &["t", "t"], &["s"], &[]), node("Sqrt", &["s"], &["e"], &[])],
    ] {
        for batch in [1, 4] {
            let graph = timed(batch, nodes.clone()).graph();
            assert_eq!(graph.ty(graph.returns[0].1).shape, [batch, 3], "{graph}");
        }
    }
}

#[test]
fn a_timestep_that_cannot_be_per_sample_is_refused() {
    let nodes = vec![
        node("Mul", &["t", "row"], &["s"], &[]),
        node("ReduceSum", &["s", "zero"], &["e"], &[("keepdims", Value::Int(0))]),
    ];
    let folder = timed(3, nodes);
    let refusal = canonical(&folder.open(), &Binding::default(), &mut unobserved()).err().unwrap().to_string();
    assert!(refusal.contains("one number for each sample of the batch"), "{refusal}");
}

/// A second value of one weight would be read without its trained entries.
#[test]
fn a_weight_has_one_value() {
    let nodes = vec![node("MatMul", &["x", "v"], &["y"], &[])];
    let mut graph = Folder::new(&plain(nodes, &[2, 3], vec![floats("v", &[3, 2])])).graph();
    graph.stage = Stage::Sparse;
    verify(&graph, "test").unwrap();
    let ty = graph.ty(graph.returns[0].1).with_shape(&[3, 2]);
    graph.add_value("again", ty, Def::Weight(0));
    let refusal = verify(&graph, "test").unwrap_err().to_string();
    assert!(refusal.starts_with("V06"), "{refusal}");
}

/// Every limit that some plan of two shapes meets is met: each shape is measured alone, and the plan takes more.
#[test]
fn a_limit_is_met_by_all_shapes_together() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/pipeline.unet.onnx");
    let model = Model::open(&path).unwrap();
    let binding = |height: usize, width: usize| {
        let dims = [("batch_size", 2), ("height", height), ("width", width), ("sequence_length", 7)];
        Binding { dims: dims.map(|(name, size)| (name.to_owned(), size)).into(), ..Binding::default() }
    };
    let site = Site::Device(MatmulPrecision::Highest);
    let within = |memory_limit| {
        let options = TrainOptions::new(binding(16, 16), select::Options::default(), Amount::Density(0.5));
        let buckets = vec![("wide".to_owned(), binding(8, 32))];
        let options = TrainOptions { memory_limit, buckets, site, ..options };
        compile_training(&model, &options, &mut unobserved()).map(|plan| memory(&plan, site).total())
    };
    let (mut bytes, mut met) = (within(None).unwrap(), 0);
    loop {
        let limit = bytes - 1;
        match within(Some(limit)) {
            Ok(found) => {
                assert!(found <= limit, "{found} within {limit}");
                bytes = found;
                met += 1;
            }
            Err(Error::Memory { least, others, .. }) => {
                println!("{met} limits are met, {bytes} bytes are least, {least} was said");
                assert!(least > limit && others.iter().all(|fit| fit.bytes < least));
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(met > 3, "{met}");
}
