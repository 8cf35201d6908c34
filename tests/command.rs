//! The command line from outside: what it prints and writes when all is well, and what it says of bad input.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod common;
#[path = "command/files.rs"]
mod files;
#[path = "command/models.rs"]
mod models;
#[path = "command/runs.rs"]
mod runs;

use common::{Dim, Tensor as Initialiser, declare, graph, model, node, noise};
use onnx_protobuf::{StringStringEntryProto, tensor_proto::DataLocation};
use protobuf::EnumOrUnknown;
use sara::kernels::DType;
use sara::runtime::oracle::Oracle;
use sara::runtime::tensor::{Tensor, Tensors, read_safetensors, write_safetensors};
use sara_runtime::oracle::OracleType::F32;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where there is a CUDA device, its results are those of the CPU; where there is none, it is said, and `auto` does without.
#[test]
fn a_device_computes_or_is_said_to_be_missing() {
    let place = Place::compiled();
    let run = |device: &'static str, output: &'static str| {
        ["run", "model.onnx", "--inputs", CASE, "--output", output, "--device", device]
    };
    place.ok(&run("cpu", "cpu.safetensors"));
    place.ok(&run("auto", "auto.safetensors"));
    let devices = sara_runtime::device::driver::devices().map_or(0, |(found, _)| found.len());
    for (name, tensor) in &place.tensors("cpu.safetensors") {
        let auto = place.tensors("auto.safetensors")[name].to_f64();
        for (a, b) in auto.iter().zip(tensor.to_f64()) {
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()) && (devices > 0 || *a == b), "{name}: {a} and {b}");
        }
    }
    place.fails(2, &run("tpu", "tpu.safetensors"), &["cpu, cuda, cuda:N or auto"]);
    if devices == 0 {
        for command in [&run("cuda", "cuda.safetensors")[..], &[&TRAIN[..], &["--device", "cuda"]].concat()] {
            place.fails(1, command, &["CUDA", "--device cpu"]);
        }
    } else {
        place.fails(1, &run("cuda:99", "cuda.safetensors"), &["there is no device cuda:99"]);
    }
}

/// A limit that no training meets, and one that this does.
#[test]
fn memory_limits_are_met_or_refused_with_code_5() {
    let place = Place::new();
    let compile = ["compile", "model.onnx", "-o", "model.plan", "--memory-limit"];
    let all = "--weights streamed --mixed-precision bf16 --use-8bit-adam";
    place.fails(5, &[&compile[..], &["1KiB"]].concat(), &["at least", "MiB", "--memory-limit", all, "still"]);
    place.fails(2, &[&compile[..], &["much"]].concat(), &["6GiB"]);
    place.ok(&[&compile[..], &["1GiB"]].concat());
}

fn reference(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

/// A folder with a copy of a small transformer, a case of its inputs and batches to train it on.
struct Place {
    folder: tempfile::TempDir,
}

const CASE: &str = "case.safetensors";
const BATCHES: &str = "batches.safetensors";
const TRAIN: [&str; 6] = ["train", "model.plan", "--batches", BATCHES, "--output-dir", "run"];

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        place.copy("dit.dynamo.onnx", "model.onnx");
        place.copy("dit.dynamo.case.safetensors", CASE);
        place.copy("trajectory/dit.dynamo.batches.safetensors", BATCHES);
        place
    }

    /// The same, with a plan.
    fn compiled() -> Place {
        let place = Place::new();
        place.ok(&["compile", "model.onnx", "-o", "model.plan", "--threshold", "5e-3"]);
        place
    }

    fn copy(&self, from: &str, to: &str) {
        std::fs::copy(reference(from), self.path(to)).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(file), content).unwrap();
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    fn tensors(&self, file: &str) -> Tensors {
        read_safetensors(&self.path(file)).unwrap().0
    }

    /// Writes another version of a file of tensors.
    fn changed(&self, from: &str, to: &str, change: impl FnOnce(&mut Tensors)) {
        let mut tensors = self.tensors(from);
        change(&mut tensors);
        write_safetensors(&self.path(to), &tensors, None).unwrap();
    }

    fn sara(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sara")).current_dir(self.folder.path()).args(args).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it prints.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.sara(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a command that must fail with this exit code and a message that holds these words, and returns the message.
    #[track_caller]
    fn fails(&self, code: i32, args: &[&str], words: &[&str]) -> String {
        let output = self.sara(args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.lines().any(|line| line.starts_with("error: ")), "{args:?}: {message}");
        assert!(!message.contains("panicked"), "{args:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{args:?}: no {word:?} in: {message}");
        }
        message
    }

    /// As [`Place::fails`], of a training.
    #[track_caller]
    fn train_fails(&self, code: i32, more: &[&str], words: &[&str]) -> String {
        let message = self.fails(code, &[&TRAIN[..], more].concat(), words);
        assert!(!self.path("run/adapter").exists(), "{more:?}: a failed run wrote an adapter");
        message
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A tensor with its first element replaced.
fn with_first(tensor: &Tensor, value: f32) -> Tensor {
    let mut values = tensor.to_f32();
    values[0] = value;
    Tensor::f32(tensor.shape(), values).unwrap()
}

/// Output that is one JSON value and nothing else.
fn json(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|e| panic!("{e}: {output}"))
}

#[test]
fn json_stands_alone_on_stdout() {
    let place = Place::compiled();
    let inspected = json(&place.ok(&["inspect", "model.onnx", "--json"]));
    assert_eq!(inspected["opset"], 20);
    let weights = inspected["weights"].as_array().unwrap();
    let trains = |w: &&Value| w["role"] == "trains";
    let below: u64 = weights.iter().filter(trains).map(|w| w["below"][3].as_u64().unwrap()).sum();
    let compiled = json(&place.ok(&["compile", "model.onnx", "-o", "own.plan", "--threshold", "5e-3", "--json"]));
    assert_eq!(compiled["trainable"], below);
    assert_eq!(compiled["threshold"], 5e-3);
    let memory = &compiled["memory"];
    let parts = ["weights", "sparse_state", "constants", "arena", "scratch"];
    assert_eq!(memory["total"], parts.iter().map(|p| memory[p].as_u64().unwrap()).sum::<u64>());

    let output = place.sara(&[&TRAIN[..], &["--json", "--max-train-steps", "3"]].concat());
    assert_eq!(output.status.code(), Some(0));
    let steps: Vec<Value> = text(&output.stdout).lines().map(json).collect();
    assert_eq!(steps.iter().map(|s| s["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    for step in &steps {
        assert!(step["loss"].as_f64().unwrap() > 0.0 && step["trainable"] == below, "{step}");
    }
    assert_eq!(text(&output.stdout), text(&place.read("run/metrics.jsonl")), "the log holds the same");
    let said = text(&output.stderr);
    assert!(said.contains("trainable params: ") && said.contains("wrote run/adapter"), "{said}");

    Oracle::open_or_fetch().unwrap_or_else(|e| panic!("ONNX Runtime is needed for this test: {e}"));
    let verified = json(&place.ok(&["verify", "model.onnx", "--json"]));
    assert_eq!(verified["verified"], true);
    assert!(verified["outputs"][0]["difference"].as_f64().unwrap() < 2e-4);
    assert!(verified["nodes"]["compared"].as_u64().unwrap() > 100);

    // What else prints to stdout does not go with it.
    place.fails(2, &["inspect", "model.onnx", "--json", "--dump-after", "fold"], &["--json", "--dump-after"]);
    for other in [&["--print-plan"][..], &["--dump-after", "fuse"]] {
        let args = [&["compile", "model.onnx", "-o", "own.plan", "--json"], other].concat();
        place.fails(2, &args, &["--json", other[0]]);
    }
}

#[test]
fn graphs_and_plans_are_printed() {
    let place = Place::new();
    let passes = ["import", "fold", "canonicalise", "sparsify", "differentiate", "update", "fuse"];
    let mut seen: Vec<String> = Vec::new();
    for pass in passes {
        let printed = place.ok(&["compile", "model.onnx", "-o", "out", "--dump-after", pass]);
        let graph = printed.split("trainable params").next().unwrap().to_owned();
        assert!(graph.starts_with("graph "), "{pass}: {graph}");
        // Importing leaves nothing to fold in this model.
        assert!(pass == "fold" || !seen.contains(&graph), "{pass} changes nothing");
        seen.push(graph);
    }
    let printed = place.ok(&["compile", "model.onnx", "-o", "out", "--print-plan"]);
    for program in ["train", "forward", "update"] {
        assert!(printed.contains(program), "{program}");
    }
}

#[test]
fn from_inspecting_to_running_the_tuned_model() {
    let place = Place::new();
    let inspected = place.ok(&["inspect", "model.onnx"]);
    for word in ["opset 20", "hidden_states f32[2,4,16,16]", "out_sample f32[2,4,16,16]", "17 MatMul", "all that train"]
    {
        assert!(inspected.contains(word), "{word}: {inspected}");
    }
    let compiled = place.ok(&["compile", "model.onnx", "-o", "model.plan", "--threshold", "5e-3"]);
    for word in ["trainable params: 2,682", "learning rate by the paper's rule: 1.738e-4", "peak", "wrote model.plan"] {
        assert!(compiled.contains(word), "{word}: {compiled}");
    }
    place.ok(&[&TRAIN[..], &["--max-train-steps", "3", "--learning-rate", "1e-3"]].concat());
    let exported = place.ok(&["export", "run", "-o", "tuned/model.onnx", "--weights", "tuned.safetensors"]);
    assert!(exported.contains("2,682 values"), "{exported}");

    let case = place.tensors(CASE);
    let run = |model: &str, out: &str| {
        let printed = place.ok(&["run", model, "--inputs", CASE, "-o", out]);
        assert!(printed.contains("out_sample f32[2, 4, 16, 16]"), "{printed}");
        place.tensors(out)["out_sample"].to_f64()
    };
    let (base, tuned) = (run("model.onnx", "base.out"), run("tuned/model.onnx", "tuned.out"));
    let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let largest = base.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(apart(&base, &case["expected.out_sample"].to_f64()) < 2e-4 * largest);
    assert!(apart(&base, &tuned) > 1e-4 * largest, "tuning changes nothing");

    // The weights that are written are those of the tuned model, and gradients are PyTorch's.
    assert_eq!(place.tensors("tuned.safetensors").len(), 21);
    let printed = place.ok(&["gradients", "model.onnx", "--inputs", CASE, "-o", "gradients.out"]);
    let loss: f64 = printed.strip_prefix("loss ").unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((loss - case["expected.loss"].to_f64()[0]).abs() < 1e-5, "{printed}");
    let (expected, _) = read_safetensors(&reference("dit.dynamo.grads.safetensors")).unwrap();
    let gradients = place.tensors("gradients.out");
    assert_eq!(gradients.len(), 21);
    for (name, gradient) in &gradients {
        let wanted = expected[name].to_f64();
        let norm = wanted.iter().map(|v| v * v).sum::<f64>().sqrt();
        assert_eq!(gradient.dtype(), DType::F32);
        assert_eq!(gradient.shape(), expected[name].shape(), "{name}");
        assert!(apart(&gradient.to_f64(), &wanted) < 1e-3 * norm, "{name}");
    }

    let doctor = place.ok(&["doctor"]);
    for word in [env!("CARGO_PKG_VERSION"), "processor", "threads", "onnxruntime"] {
        assert!(doctor.contains(word), "{word}: {doctor}");
    }
}

/// Files of a model that was compiled, trained and exported.
fn tuned(place: &Place, more: &[&str]) -> [Vec<u8>; 3] {
    if place.path("run").exists() {
        std::fs::remove_dir_all(place.path("run")).unwrap();
    }
    let flags = ["--learning-rate", "1e-3", "--gradient-accumulation-steps", "2", "--max-train-steps", "8"];
    place.ok(&[&TRAIN[..], &flags, more].concat());
    place.ok(&["export", "run", "-o", "out/model.onnx", "--weights", "out/weights", "--adapter", "out/adapter"]);
    ["out/model.onnx", "out/weights", "out/adapter"].map(|file| place.read(file))
}

#[test]
fn threads_change_no_byte() {
    let place = Place::new();
    // Matrices for the low-rank term, which a seed draws from, and products of several tasks.
    let matrix = |name, rows: usize, cols: usize, seed| {
        let values: Vec<f64> = noise(seed, rows * cols).iter().map(|v| (v - 0.5) / 10.0).collect();
        Initialiser::new(F32, &[rows, cols], &values).proto(name)
    };
    let weights = vec![matrix("v", 96, 200, 1), matrix("w", 200, 70, 2)];
    let nodes = vec![
        node("MatMul", &["x", "v"], &["h"], &[]),
        node("Tanh", &["h"], &["a"], &[]),
        node("MatMul", &["a", "w"], &["y"], &[]),
    ];
    let x = declare("x", F32, &[Dim::Fixed(600), Dim::Fixed(96)]);
    place.write("model.onnx", common::bytes(&model(17, graph(nodes, vec![x], weights, &["y"]))));
    let tensor = |width: usize, seed| {
        let values = noise(seed, 4 * 600 * width).iter().map(|v| *v as f32).collect();
        Tensor::f32(&[4, 600, width], values).unwrap()
    };
    let batches = Tensors::from([("x".to_owned(), tensor(96, 3)), ("target".to_owned(), tensor(70, 4))]);
    write_safetensors(Path::new(&place.path(BATCHES)), &batches, None).unwrap();
    place.ok(&["compile", "model.onnx", "-o", "model.plan", "--density", "0.2"]);
    let one = tuned(&place, &["--threads", "1", "--seed", "7", "--lambda-rank", "0.01"]);
    let two = tuned(&place, &["--threads", "2", "--seed", "7", "--lambda-rank", "0.01"]);
    assert!(one == two, "the number of threads shows in the results");
    let other = tuned(&place, &["--threads", "2", "--seed", "8", "--lambda-rank", "0.01"]);
    assert!(other != one, "the seed does nothing");
}

#[test]
fn threads_change_no_byte_of_a_transformer() {
    let place = Place::compiled();
    assert!(tuned(&place, &["--threads", "1"]) == tuned(&place, &["--threads", "2"]));
}
