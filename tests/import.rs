//! Files that are damaged, hostile or not supported: each is refused with a message that names what is wrong, and none makes the
//! program panic.

mod common;

use common::{Dim, Layout, Tensor, Value, bytes, declare, graph, model, node, noise};
use onnx_protobuf::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use protobuf::EnumOrUnknown;
use sara_compiler::compile::{canonical, unobserved};
use sara_compiler::import::{Binding, Model, import};
use sara_compiler::ir::verify::verify;
use sara_runtime::oracle::OracleType::{self, *};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tempfile::TempDir;

/// A folder with a model file.
struct Folder(TempDir);

impl Folder {
    fn new(model: &[u8]) -> Folder {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("model.onnx"), model).expect("the model");
        Folder(folder)
    }

    fn with(self, file: &str, content: &[u8]) -> Folder {
        std::fs::write(self.0.path().join(file), content).expect("the file");
        self
    }

    fn import(&self, binding: &Binding) -> sara_compiler::Result<sara_compiler::ir::Graph> {
        let graph = import(&Model::open(&self.0.path().join("model.onnx"))?, binding)?;
        verify(&graph, "import")?;
        Ok(graph)
    }

    /// The message of the refusal, which must hold all of `words` and the name of the file.
    #[track_caller]
    fn refused_with(&self, binding: &Binding, words: &[&str]) -> String {
        let message = match self.import(binding) {
            Ok(graph) => panic!("nothing is wrong:\n{graph}"),
            Err(error) => error.to_string(),
        };
        let folder = self.0.path().to_str().expect("a path in UTF-8");
        for word in words.iter().chain([&folder]) {
            assert!(message.contains(word), "no {word:?} in: {message}");
        }
        message
    }

    #[track_caller]
    fn refused(&self, words: &[&str]) -> String {
        self.refused_with(&Binding::default(), words)
    }
}

#[track_caller]
fn refused(model: &ModelProto, words: &[&str]) -> String {
    Folder::new(&bytes(model)).refused(words)
}

fn fixed(name: &str, shape: &[usize]) -> onnx_protobuf::ValueInfoProto {
    declare(name, F32, &shape.iter().map(|d| Dim::Fixed(*d)).collect::<Vec<_>>())
}

fn floats(name: &str, shape: &[usize]) -> TensorProto {
    Tensor::new(F32, shape, &noise(3, shape.iter().product())).proto(name)
}

fn whole(name: &str, values: &[f64]) -> TensorProto {
    Tensor::new(I64, &[values.len()], values).proto(name)
}

/// `y = x + w`, with this weight.
fn sum_with(weight: TensorProto) -> ModelProto {
    let nodes = vec![node("Add", &["x", "w"], &["y"], &[])];
    model(13, graph(nodes, vec![fixed("x", &[2, 3])], vec![weight], &["y"]))
}

/// A model with many kinds of fields.
fn varied() -> ModelProto {
    let nodes = vec![
        node("Conv", &["x", "w", "b"], &["c"], &[("pads", Value::Ints(vec![1, 1, 1, 1])), ("group", Value::Int(1))]),
        node("Shape", &["c"], &["shape"], &[]),
        node("Slice", &["shape", "zero", "two"], &["front"], &[]),
        node("Concat", &["front", "minus"], &["to"], &[("axis", Value::Int(0))]),
        node("Reshape", &["c", "to"], &["flat"], &[]),
        node("Constant", &[], &["half"], &[("value", Value::Tensor(Tensor::new(F32, &[], &[0.5])))]),
        node("Mul", &["flat", "half"], &["scaled"], &[]),
        node("Softmax", &["scaled"], &["soft"], &[("axis", Value::Int(-1))]),
        node("Resize", &["c", "", "scales"], &["large"], &[("mode", Value::Text("linear"))]),
        node("LeakyRelu", &["large"], &["z"], &[("alpha", Value::Float(0.1))]),
        node("Gather", &["table", "indices"], &["rows"], &[("axis", Value::Int(0))]),
        node("Pad", &["rows", "pads"], &["padded"], &[]),
    ];
    let initialisers = vec![
        floats("w", &[3, 2, 3, 3]),
        Tensor { layout: Layout::Typed, ..Tensor::new(F32, &[3], &[0.5, 1.0, 1.5]) }.proto("b"),
        whole("zero", &[0.0]),
        Tensor { layout: Layout::Typed, ..Tensor::new(I64, &[1], &[2.0]) }.proto("two"),
        whole("minus", &[-1.0]),
        Tensor::new(F32, &[4], &[1.0, 1.0, 2.0, 2.0]).proto("scales"),
        Tensor { layout: Layout::Typed, ..Tensor::new(F16, &[3, 2], &[0.5; 6]) }.proto("table"),
        whole("indices", &[0.0, 2.0]),
        whole("pads", &[0.0, 1.0, 1.0, 0.0]),
    ];
    let inputs = vec![declare("x", F32, &[Dim::Named("batch"), Dim::Fixed(2), Dim::Named("h"), Dim::Fixed(4)])];
    model(13, graph(nodes, inputs, initialisers, &["soft", "z", "padded"]))
}

fn varied_binding() -> Binding {
    Binding { dims: [("h".to_owned(), 4)].into(), ..Binding::default() }
}

#[test]
fn the_models_below_are_sound_before_they_are_damaged() {
    Folder::new(&bytes(&varied())).import(&varied_binding()).unwrap();
    Folder::new(&bytes(&sum_with(floats("w", &[2, 3])))).import(&Binding::default()).unwrap();
}

#[test]
fn other_files_are_no_models() {
    for content in [&b""[..], b"no model", b"{\"a\": 1}", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &[0; 64], &[0xff; 64]] {
        Folder::new(content).refused(&["model.onnx", "is not an ONNX model"]);
    }
    let empty = model(13, graph(vec![], vec![], vec![], &[]));
    refused(&empty, &["is not an ONNX model", "give the path of an .onnx file"]);
    let mut none = sum_with(floats("w", &[3]));
    none.graph.clear();
    refused(&none, &["holds no graph"]);
}

#[test]
fn missing_files_and_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| Model::open(path).err().map(|e| e.to_string()).unwrap();
    let absent = folder.path().join("absent.onnx");
    assert!(message(&absent).contains("absent.onnx"), "{}", message(&absent));
    let found = message(folder.path());
    assert!(found.contains("is not a regular file; give the path of an .onnx file"), "{found}");
}

/// Opens and compiles bytes that may be anything. A panic is caught and returned.
fn survive(content: &[u8], binding: &Binding) -> Result<bool, String> {
    let folder = Folder::new(content);
    let path = folder.0.path().join("model.onnx");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let model = Model::open(&path)?;
        canonical(&model, binding, &mut unobserved())
    }));
    match outcome {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(sara_compiler::Error::Verify { reason, .. })) => Err(format!("a rule is broken: {reason}")),
        Ok(Err(error)) if error.to_string().contains(path.to_str().expect("a path in UTF-8")) => Ok(false),
        Ok(Err(error)) => Err(format!("the message does not name the file: {error}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
        }
    }
}

#[test]
fn truncated_files_are_refused() {
    let whole = bytes(&varied());
    let mut refusals = 0;
    for len in 0..whole.len() {
        match survive(&whole[..len], &varied_binding()) {
            Ok(sound) => refusals += usize::from(!sound),
            Err(e) => panic!("the first {len} bytes: {e}"),
        }
    }
    // All but the few cuts that leave whole messages.
    assert!(refusals + 8 > whole.len(), "{refusals} of {} cuts are refused", whole.len());
}

#[test]
fn flipped_bits_do_no_harm() {
    let whole = bytes(&varied());
    let mut failures = Vec::new();
    let (mut sound, mut refused) = (0, 0);
    for seed in 0..3000u64 {
        let mut content = whole.clone();
        let draws = noise(seed, 6);
        // One to three bytes.
        for pair in draws.chunks(2).take(1 + seed as usize % 3) {
            let at = (pair[0] * content.len() as f64) as usize;
            content[at] = content[at].wrapping_add(1 + (pair[1] * 255.0) as u8);
        }
        match survive(&content, &varied_binding()) {
            Ok(true) => sound += 1,
            Ok(false) => refused += 1,
            Err(e) => failures.push(format!("seed {seed}: {e}")),
        }
    }
    println!("{sound} files remain sound, {refused} are refused");
    assert!(failures.is_empty(), "{} of 3000:\n{}", failures.len(), failures.join("\n"));
    assert!(sound > 100 && refused > 100, "{sound} sound, {refused} refused");
}

/// A weight in another file.
fn external(entries: &[(&str, &str)]) -> TensorProto {
    let mut tensor = floats("w", &[2, 3]);
    tensor.raw_data.clear();
    tensor.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
    tensor.external_data = entries
        .iter()
        .map(|(key, value)| {
            let mut entry = StringStringEntryProto::new();
            entry.key = (*key).to_owned();
            entry.value = (*value).to_owned();
            entry
        })
        .collect();
    tensor
}

#[test]
fn external_data_is_read_from_beside_the_model() {
    let model = bytes(&sum_with(external(&[("location", "w.bin"), ("offset", "8"), ("length", "24")])));
    let folder = Folder::new(&model).with("w.bin", &[0; 32]);
    folder.import(&Binding::default()).unwrap();
    let model = bytes(&sum_with(external(&[("location", "./w.bin")])));
    Folder::new(&model).with("w.bin", &[0; 24]).import(&Binding::default()).unwrap();
}

#[test]
fn missing_external_data_is_named() {
    let model = bytes(&sum_with(external(&[("location", "w.bin")])));
    Folder::new(&model).refused(&["w.bin", "tensor `w`", "put it beside", "model.onnx"]);
}

#[test]
fn short_external_data_is_named() {
    let model = bytes(&sum_with(external(&[("location", "w.bin")])));
    Folder::new(&model).with("w.bin", &[0; 23]).refused(&["w.bin", "is too short", "tensor `w`", "0..24", "23"]);
    let model = bytes(&sum_with(external(&[("location", "w.bin"), ("offset", "16")])));
    Folder::new(&model).with("w.bin", &[0; 24]).refused(&["w.bin", "is too short", "16..40"]);
    let huge = u64::MAX.to_string();
    let model = bytes(&sum_with(external(&[("location", "w.bin"), ("offset", &huge)])));
    Folder::new(&model).with("w.bin", &[0; 24]).refused(&["w.bin", "is too short"]);
}

#[test]
fn external_data_of_another_length_is_refused() {
    for length in ["20", "28", "0"] {
        let model = bytes(&sum_with(external(&[("location", "w.bin"), ("length", length)])));
        Folder::new(&model).with("w.bin", &[0; 64]).refused(&["tensor `w`", "needs 24 bytes", length]);
    }
    for (key, value) in [("offset", "-1"), ("length", "x"), ("offset", "1e3")] {
        let model = bytes(&sum_with(external(&[("location", "w.bin"), (key, value)])));
        Folder::new(&model).with("w.bin", &[0; 64]).refused(&["tensor `w`", key, value, "not a number"]);
    }
}

#[test]
fn external_data_stays_in_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("w.bin"), [0; 24]).unwrap();
    let absolute = outside.path().join("w.bin").to_str().unwrap().to_owned();
    let sibling = format!("../{}/w.bin", outside.path().file_name().unwrap().to_str().unwrap());
    for location in ["../w.bin", "a/../../w.bin", "..", "", &absolute, &sibling] {
        let model = bytes(&sum_with(external(&[("location", location)])));
        Folder::new(&model).refused(&["tensor `w`", location, "outside the model's folder"]);
    }
    Folder::new(&bytes(&sum_with(external(&[])))).refused(&["tensor `w`", "outside the model's folder"]);
}

/// A model may not name a file outside its folder anywhere, and whatever it names belongs to it.
#[test]
fn external_files_are_listed_from_everywhere() {
    let at = |name: &str, location: &str, dtype: i32| {
        let mut tensor = external(&[("location", location)]);
        tensor.name = name.to_owned();
        tensor.data_type = dtype;
        tensor
    };
    let constant = |location: &str| {
        let mut n = node("Constant", &[], &["c"], &[("value", Value::Tensor(Tensor::new(F32, &[1], &[0.0])))]);
        n.attribute[0].t = protobuf::MessageField::some(at("c", location, 1));
        n
    };
    let with = |initialiser: &str, own: &str, inner: &str, function: &str| {
        let mut branch = node("If", &["b"], &["y"], &[("then_branch", Value::Int(0))]);
        branch.attribute[0].g = protobuf::MessageField::some(graph(vec![constant(inner)], vec![], vec![], &["c"]));
        let mut model = model(
            13,
            graph(
                vec![constant(own), branch],
                vec![fixed("x", &[2])],
                vec![at("w", "w.data", 1), at("v", "./w.data", 1), at("i", initialiser, 7)],
                &["y"],
            ),
        );
        let mut body = onnx_protobuf::FunctionProto::new();
        body.node = vec![constant(function)];
        model.functions = vec![body];
        let folder = Folder::new(&bytes(&model));
        let model = Model::open(&folder.0.path().join("model.onnx")).unwrap();
        sara_compiler::import::external_files(&model).map_err(|e| e.to_string())
    };
    let listed = with("i.bin", "sub/./c.bin", "inner.bin", "f.bin").unwrap();
    assert_eq!(listed.into_iter().collect::<Vec<_>>(), ["f.bin", "i.bin", "inner.bin", "sub/c.bin", "w.data"]);
    for outside in ["../i.bin", "/etc/i.bin", "a/../../i.bin", "", ".", "a/"] {
        for place in 0..4 {
            let mut names = ["i.bin"; 4];
            names[place] = outside;
            let [a, b, c, d] = names;
            let refusal = with(a, b, c, d).expect_err(outside);
            assert!(refusal.contains("outside the model's folder"), "{refusal}");
        }
    }
}

#[test]
fn tensors_must_have_the_bytes_of_their_shape() {
    for dtype in [F32, F64, F16, BF16, I64, I32, U32, U8, Bool, I8, I16, U16, U64] {
        for layout in [Layout::Raw, Layout::Typed] {
            for wrong in [&[2, 4][..], &[5], &[1]] {
                let mut tensor = Tensor { layout, ..Tensor::new(dtype, &[2, 3], &[1.0; 6]) }.proto("w");
                tensor.dims = wrong.iter().map(|d| *d as i64).collect();
                let nodes = vec![node("Cast", &["w"], &["y"], &[("to", Value::Int(1))])];
                let model = model(13, graph(nodes, vec![fixed("x", &[2, 3])], vec![tensor], &["y"]));
                refused(&model, &["model.onnx", "tensor `w`", "needs"]);
            }
        }
    }
}

#[test]
fn a_constant_is_named_by_its_result() {
    let mut constant = node("Constant", &[], &["c"], &[("value", Value::Tensor(Tensor::new(F32, &[3], &[0.0; 3])))]);
    if let Some(tensor) = constant.attribute[0].t.as_mut() {
        tensor.dims = vec![4];
    }
    let nodes = vec![constant, node("Add", &["x", "c"], &["y"], &[])];
    let model = model(13, graph(nodes, vec![fixed("x", &[3])], vec![], &["y"]));
    refused(&model, &["model.onnx", "`c`", "needs 16 bytes and has 12"]);
}

#[test]
fn impossible_shapes_are_refused() {
    for dims in [&[-1, 3][..], &[i64::MAX, 2], &[1 << 40, 1 << 40], &[i64::MIN], &[1 << 32, 1 << 32, 0], &[1 << 50]] {
        for dtype in [F32, I64] {
            let mut tensor = Tensor::new(dtype, &[1], &[1.0]).proto("w");
            tensor.dims = dims.to_vec();
            refused(&sum_with(tensor), &["model.onnx", "tensor `w`", "impossible shape"]);
        }
    }
}

#[test]
fn tensors_of_unknown_types_are_refused() {
    for number in [0, 8, 14, 99, -1] {
        let mut tensor = floats("w", &[2, 3]);
        tensor.data_type = number;
        refused(&sum_with(tensor), &["model.onnx", "tensor `w`", "element type", "not supported"]);
    }
    let mut model = sum_with(floats("w", &[2, 3]));
    let graph = model.graph.as_mut().unwrap();
    graph.input = vec![declare("x", OracleType::F32, &[Dim::Fixed(2), Dim::Fixed(3)])];
    if let Some(onnx_protobuf::type_proto::Value::TensorType(t)) =
        graph.input[0].type_.as_mut().and_then(|t| t.value.as_mut())
    {
        t.elem_type = 8;
    }
    refused(&model, &["model.onnx", "input `x`", "element type STRING (8)", "not supported"]);
}

#[test]
fn cycles_and_undefined_values_are_refused() {
    let nodes = vec![
        node("Add", &["x", "b"], &["a"], &[]),
        node("Relu", &["a"], &["b"], &[]),
        node("Relu", &["b"], &["y"], &[]),
    ];
    let cycle = model(13, graph(nodes, vec![fixed("x", &[2])], vec![], &["y"]));
    refused(&cycle, &["model.onnx", "`Add_of_a` (Add)", "`b`", "damaged or not sorted"]);
    let own = model(13, graph(vec![node("Add", &["x", "y"], &["y"], &[])], vec![fixed("x", &[2])], vec![], &["y"]));
    refused(&own, &["`Add_of_y` (Add)", "`y`", "damaged or not sorted"]);
    let missing = model(13, graph(vec![node("Add", &["x", "z"], &["y"], &[])], vec![fixed("x", &[2])], vec![], &["y"]));
    refused(&missing, &["model.onnx", "`Add_of_y` (Add)", "`z`", "nothing before it produces"]);
    let output = model(13, graph(vec![node("Relu", &["x"], &["y"], &[])], vec![fixed("x", &[2])], vec![], &["z"]));
    refused(&output, &["model.onnx", "output `z` is produced by no node"]);
    let none = model(13, graph(vec![node("Relu", &["x"], &["y"], &[])], vec![fixed("x", &[2])], vec![], &[]));
    refused(&none, &["model.onnx", "has no outputs"]);
}

#[test]
fn names_are_defined_once() {
    let relu = |from: &str, to: &str| node("Relu", &[from], &[to], &[]);
    let x = || fixed("x", &[2]);
    let twice = "defines the value";
    let nodes = model(13, graph(vec![relu("x", "y"), relu("y", "y")], vec![x()], vec![], &["y"]));
    refused(&nodes, &["model.onnx", twice, "`y`", "export it again"]);
    let inputs = model(13, graph(vec![relu("x", "y")], vec![x(), x()], vec![], &["y"]));
    refused(&inputs, &["model.onnx", twice, "`x`"]);
    let shadow = model(13, graph(vec![relu("x", "x")], vec![x()], vec![], &["x"]));
    refused(&shadow, &["model.onnx", twice, "`x`"]);
    let weights = vec![floats("w", &[2]), floats("w", &[2])];
    let weights = model(13, graph(vec![node("Add", &["x", "w"], &["y"], &[])], vec![x()], weights, &["y"]));
    refused(&weights, &["model.onnx", twice, "`w`"]);
    let split = node("Split", &["x"], &["a", "a"], &[("axis", Value::Int(0))]);
    refused(&model(13, graph(vec![split], vec![x()], vec![], &["a"])), &["model.onnx", twice, "`a`"]);
    // An initialiser that is also declared as an input is the input's default, as older exporters write all weights.
    let mut old = sum_with(floats("w", &[2, 3]));
    old.graph.as_mut().unwrap().input.push(fixed("w", &[2, 3]));
    Folder::new(&bytes(&old)).import(&Binding::default()).unwrap();
}

#[test]
fn all_unsupported_operators_are_listed_at_once() {
    let mut foreign = node("FusedThing", &["d"], &["e"], &[]);
    foreign.domain = "com.example".to_owned();
    let nodes = vec![
        node("NonMaxSuppression", &["x", "x"], &["a"], &[]),
        node("Relu", &["a"], &["b"], &[]),
        node("Unheard", &["x"], &["c"], &[]),
        node("Unheard", &["b"], &["d"], &[]),
        foreign,
        node("Elu", &["x"], &["y"], &[("beta", Value::Float(1.0))]),
        node("Pad", &["x", "x"], &["z"], &[]),
    ];
    let model = model(13, graph(nodes, vec![fixed("x", &[2, 2])], vec![], &["e", "y", "z"]));
    let message = refused(
        &model,
        &[
            "model.onnx",
            "operator NonMaxSuppression is not supported: `NonMaxSuppression_of_a`",
            "operator Unheard is not supported: `Unheard_of_c`, `Unheard_of_d`",
            "operator com.example::FusedThing is not supported: `FusedThing_of_e`",
            "before it is optimised",
            "`Elu_of_y` (Elu): attribute `beta` is not supported",
            "`Pad_of_z` (Pad)",
            "must be known when compiling",
        ],
    );
    assert!(!message.contains("Relu"), "what follows an unsupported node is not an obstacle of its own: {message}");
}

#[test]
fn many_nodes_of_one_operator_are_counted() {
    let names: Vec<String> = (0..9).map(|i| format!("v{i}")).collect();
    let nodes = names.iter().map(|n| node("Unheard", &["x"], &[n], &[])).collect();
    let model = model(13, graph(nodes, vec![fixed("x", &[2, 2])], vec![], &["v0"]));
    let message = refused(&model, &["`Unheard_of_v0`, `Unheard_of_v1`, `Unheard_of_v2` and 6 more"]);
    assert!(!message.contains("Unheard_of_v3"), "{message}");
}

#[test]
fn results_that_nobody_makes_are_refused() {
    let outputs = node("Relu", &["x"], &["y", "mean"], &[]);
    let model = model(17, graph(vec![outputs], vec![fixed("x", &[2, 3])], vec![], &["y"]));
    refused(&model, &["model.onnx", "Relu_of_y", "`mean`"]);
}

fn open_model() -> ModelProto {
    let x = declare("x", F32, &[Dim::Named("batch"), Dim::Named("height"), Dim::Named("width")]);
    let z = declare("z", F32, &[Dim::Named("batch"), Dim::Named("height"), Dim::Fixed(1)]);
    model(13, graph(vec![node("Add", &["x", "z"], &["y"], &[])], vec![x, z], vec![], &["y"]))
}

#[test]
fn open_dimensions_are_listed() {
    let folder = Folder::new(&bytes(&open_model()));
    let message = folder.refused(&["--dim NAME=SIZE", "height, width"]);
    assert!(!message.contains("batch"), "a batch of 1 is the default: {message}");
    let dims = [("height".to_owned(), 4)].into();
    let message = folder.refused_with(&Binding { dims, ..Binding::default() }, &["--dim NAME=SIZE", "width"]);
    assert!(!message.contains("height"), "{message}");
    let dims = [("height".to_owned(), 4), ("width".to_owned(), 5), ("batch".to_owned(), 2)].into();
    let graph = folder.import(&Binding { dims, ..Binding::default() }).unwrap();
    assert_eq!(graph.ty(graph.returns[0].1).shape, [2, 4, 5]);
    let shapes = [("x".to_owned(), vec![3, 4, 5])].into();
    let graph = folder.import(&Binding { shapes, ..Binding::default() }).unwrap();
    assert_eq!(graph.ty(graph.returns[0].1).shape, [3, 4, 5]);
}

#[test]
fn open_dimensions_without_names_take_given_shapes() {
    let x = declare("x", F32, &[Dim::Unnamed, Dim::Fixed(3)]);
    let folder =
        Folder::new(&bytes(&model(13, graph(vec![node("Relu", &["x"], &["y"], &[])], vec![x], vec![], &["y"]))));
    folder.refused(&["input", "`x`", "no names", "export the model with names"]);
    let shapes = [("x".to_owned(), vec![2, 3])].into();
    let graph = folder.import(&Binding { shapes, ..Binding::default() }).unwrap();
    assert_eq!(graph.ty(graph.returns[0].1).shape, [2, 3]);
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let folder = Folder::new(&bytes(&open_model()));
    let dims = [("hight".to_owned(), 4)].into();
    folder.refused_with(
        &Binding { dims, ..Binding::default() },
        &["no dimension `hight`", "its dimensions are batch, height, width"],
    );
    let shapes = [("t".to_owned(), vec![4])].into();
    folder.refused_with(&Binding { shapes, ..Binding::default() }, &["no input `t`", "its inputs are x, z"]);
    for shape in [vec![1, 4], vec![1, 4, 5, 6]] {
        let shapes = [("x".to_owned(), shape)].into();
        let dims = [("height".to_owned(), 4), ("width".to_owned(), 5)].into();
        folder.refused_with(&Binding { shapes, dims, ..Binding::default() }, &["input `x`", "must have shape"]);
    }
    let fixed_only = Folder::new(&bytes(&sum_with(floats("w", &[3]))));
    let dims = [("height".to_owned(), 4)].into();
    fixed_only.refused_with(&Binding { dims, ..Binding::default() }, &["no dimension `height`"]);
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let x = || vec![fixed("x", &[2, 3])];
    let check = |nodes, initialisers, words: &[&str]| {
        let message = refused(&model(13, graph(nodes, x(), initialisers, &["y"])), words);
        assert!(message.contains("model.onnx"), "{message}");
    };
    let (w, s) = (|| vec![floats("w", &[4, 5])], |v: &[f64]| vec![whole("s", v)]);
    check(vec![node("MatMul", &["x", "w"], &["y"], &[])], w(), &["`MatMul_of_y`", "f32[2,3], f32[4,5]"]);
    check(vec![node("Add", &["x", "w"], &["y"], &[])], w(), &["`Add_of_y`", "do not broadcast"]);
    check(vec![node("Reshape", &["x", "s"], &["y"], &[])], s(&[4.0, 2.0]), &["`Reshape_of_y`", "6 elements"]);
    check(vec![node("Reshape", &["x", "s"], &["y"], &[])], s(&[-1.0, -1.0]), &["`Reshape_of_y`"]);
    check(vec![node("Add", &["x"], &["y"], &[])], vec![], &["`Add_of_y`", "operand 1 is missing"]);
    check(vec![node("Concat", &["x", "x"], &["y"], &[("axis", Value::Int(7))])], vec![], &["axis 7", "rank 2"]);
    check(
        vec![node("Cast", &["x"], &["y"], &[("to", Value::Int(8))])],
        vec![],
        &["`Cast_of_y`", "element type STRING (8)"],
    );
    for positions in [&[9.0][..], &[0.0, 9.0]] {
        check(vec![node("Gather", &["x", "s"], &["y"], &[])], s(positions), &["`Gather_of_y`", "index 9", "outside"]);
    }
}

/// Names may hold anything; the text form of the graph keeps them.
#[test]
fn odd_names_are_kept() {
    for name in ["", "a b", " a ", "\n", "a\"b", "a\\", "a, %b", "é", "\u{1}", "; c", "x\" all 1", "{}", "_", "a as b"]
    {
        let (input, weight, output) = (format!("{name}x"), format!("{name}w"), format!("{name}y"));
        let mut node = node("Add", &[&input, &weight], &[&output], &[]);
        node.name = name.to_owned();
        let model = model(13, graph(vec![node], vec![fixed(&input, &[3])], vec![floats(&weight, &[3])], &[&output]));
        let imported =
            Folder::new(&bytes(&model)).import(&Binding::default()).unwrap_or_else(|e| panic!("{name:?}: {e}"));
        let again = sara_compiler::ir::parse(&imported.to_string()).unwrap();
        assert_eq!(again.returns[0].0, output);
        assert_eq!(again.weights[0].name, weight);
    }
}

/// Sizes that no memory holds are refused, not allocated.
#[test]
fn enormous_sizes_are_refused() {
    let huge = [1e6, 1e12, 4e18];
    let mut failures = Vec::new();
    for size in huge {
        let many = vec![whole("s", &[size, size])];
        let pads = vec![whole("s", &[size, 0.0, 0.0, size])];
        let scales = vec![Tensor::new(F32, &[2], &[size, size]).proto("s")];
        let bounds = vec![
            Tensor::new(I64, &[], &[0.0]).proto("a"),
            Tensor::new(I64, &[], &[size]).proto("s"),
            Tensor::new(I64, &[], &[1.0]).proto("b"),
        ];
        let edge = [("mode", Value::Text("edge"))];
        let wide = [("pads", Value::Ints(vec![size as i64; 4]))];
        let kernel = [("kernel_shape", Value::Ints(vec![size as i64])), ("pads", Value::Ints(vec![size as i64; 2]))];
        let stride = [("strides", Value::Ints(vec![size as i64; 2]))];
        let block = [("blocksize", Value::Int(size as i64))];
        let image = || vec![floats("w", &[1, 1, 1, 1])];
        let tests = [
            ("Expand", node("Expand", &["x", "s"], &["y"], &[]), many.clone()),
            ("Reshape", node("Reshape", &["x", "s"], &["y"], &[]), many.clone()),
            ("Tile", node("Tile", &["x", "s"], &["y"], &[]), many.clone()),
            ("ConstantOfShape", node("ConstantOfShape", &["s"], &["y"], &[]), many.clone()),
            ("Resize", node("Resize", &["x", "", "", "s"], &["y"], &[]), many),
            ("Resize by scales", node("Resize", &["x", "", "s"], &["y"], &[]), scales),
            ("Pad", node("Pad", &["x", "s"], &["y"], &[]), pads.clone()),
            ("Pad by edges", node("Pad", &["x", "s"], &["y"], &edge), pads),
            ("Range", node("Range", &["a", "s", "b"], &["y"], &[]), bounds),
            ("Conv", node("Conv", &["image", "w"], &["y"], &wide), image()),
            ("ConvTranspose", node("ConvTranspose", &["image", "w"], &["y"], &stride), image()),
            ("AveragePool", node("AveragePool", &["row"], &["y"], &kernel), vec![]),
            ("DepthToSpace", node("DepthToSpace", &["image"], &["y"], &block), vec![]),
            ("SpaceToDepth", node("SpaceToDepth", &["image"], &["y"], &block), vec![]),
        ];
        for (name, node, initialisers) in tests {
            let inputs = vec![fixed("x", &[2, 3]), fixed("image", &[1, 1, 3, 3]), fixed("row", &[1, 1, 5])];
            let content = bytes(&model(13, graph(vec![node], inputs, initialisers, &["y"])));
            match survive(&content, &Binding::default()) {
                // A million is a size that a model may have; more is not.
                Ok(true) if size < 1e9 => {}
                Ok(true) => failures.push(format!("{name} to {size:e} is accepted")),
                Ok(false) => {}
                Err(e) => failures.push(format!("{name} to {size:e}: {e}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn sparse_initialisers_are_refused() {
    let mut model = sum_with(floats("w", &[2, 3]));
    model.graph.as_mut().unwrap().sparse_initializer.push(onnx_protobuf::SparseTensorProto::new());
    refused(&model, &["model.onnx", "sparse initialisers", "export dense ones"]);
}

#[test]
fn training_graphs_are_refused() {
    let x = || vec![fixed("x", &[2, 3])];
    let on = Tensor::new(Bool, &[], &[1.0]).proto("on");
    let dropout = node("Dropout", &["x", "", "on"], &["y"], &[]);
    refused(&model(13, graph(vec![dropout], x(), vec![on], &["y"])), &["`Dropout_of_y`", "training mode", ".eval()"]);
    let norm = node("BatchNormalization", &["x", "w", "w", "w", "w"], &["y"], &[("training_mode", Value::Int(1))]);
    let weights = vec![floats("w", &[3])];
    refused(&model(14, graph(vec![norm], x(), weights, &["y"])), &["training mode", ".eval()"]);
}
