//! The command line from outside: what it prints and writes when all is well, and what it says of bad input.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod common;

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
    let devices = sara_runtime::device::cuda::devices().map_or(0, |(found, _)| found.len());
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
    place.fails(5, &[&compile[..], &["1KiB"]].concat(), &["at least", "MiB", "--memory-limit"]);
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

#[test]
fn other_files_are_no_models() {
    let place = Place::new();
    place.write("text.onnx", "This is not a model.\n");
    place.write("picture.onnx", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89");
    place.write("empty.onnx", "");
    let whole = place.read("model.onnx");
    place.write("short.onnx", &whole[..whole.len() - 1000]);
    for file in ["text.onnx", "picture.onnx", "empty.onnx", "short.onnx"] {
        for args in [
            &["inspect", file][..],
            &["compile", file, "-o", "out"],
            &["run", file, "--inputs", CASE, "-o", "out"],
            &["gradients", file, "--inputs", CASE, "-o", "out"],
        ] {
            place.fails(1, args, &[file, "is not an ONNX model"]);
        }
    }
    place.fails(1, &["compile", "absent.onnx", "-o", "out"], &["absent.onnx", "No such file"]);
    place.fails(1, &["compile", ".", "-o", "out"], &["not a regular file", "give the path of an .onnx file"]);
    assert!(!place.path("out").exists());
}

#[test]
fn external_data_must_be_there() {
    let place = Place::new();
    let mut weight = Initialiser::new(F32, &[8, 8], &noise(1, 64)).proto("w");
    weight.raw_data.clear();
    weight.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
    let mut entry = StringStringEntryProto::new();
    (entry.key, entry.value) = ("location".to_owned(), "weights.bin".to_owned());
    weight.external_data.push(entry);
    let x = declare("x", F32, &[Dim::Fixed(2), Dim::Fixed(8)]);
    let product = node("MatMul", &["x", "w"], &["y"], &[]);
    place.write("outside.onnx", common::bytes(&model(17, graph(vec![product], vec![x], vec![weight], &["y"]))));
    let compile = ["compile", "outside.onnx", "-o", "out", "--threshold", "0.5"];
    place.fails(1, &compile, &["weights.bin", "tensor `w`", "put it beside", "outside.onnx"]);
    place.write("weights.bin", [0; 255]);
    place.fails(1, &compile, &["weights.bin", "is too short", "255"]);
    assert!(!place.path("out").exists());
    // The same model with all its data compiles, so that nothing else was refused; its data is not written over.
    place.write("weights.bin", [0; 256]);
    place.ok(&compile);
    place.fails(
        1,
        &["compile", "outside.onnx", "-o", "weights.bin", "--threshold", "0.5"],
        &["would overwrite", "weights.bin", "choose another path"],
    );
    assert_eq!(place.read("weights.bin"), [0; 256]);
    // It is missed too where it vanishes between compiling and training.
    std::fs::remove_file(place.path("weights.bin")).unwrap();
    let train = ["train", "out", "--batches", BATCHES, "--output-dir", "run"];
    place.fails(1, &[&train[..], &["--learning-rate", "1e-3"]].concat(), &["weights.bin", "No such file"]);
}

#[test]
fn unsupported_operators_are_all_listed() {
    let place = Place::new();
    let nodes = vec![
        node("NonMaxSuppression", &["x", "x"], &["a"], &[]),
        node("Unheard", &["x"], &["b"], &[]),
        node("Relu", &["x"], &["y"], &[]),
    ];
    let x = declare("x", F32, &[Dim::Fixed(2), Dim::Fixed(2)]);
    place.write("model.onnx", common::bytes(&model(13, graph(nodes, vec![x], vec![], &["a", "b", "y"]))));
    let words = ["model.onnx", "NonMaxSuppression_of_a", "Unheard_of_b"];
    for args in [
        &["inspect", "model.onnx"][..],
        &["compile", "model.onnx", "-o", "out"],
        &["run", "model.onnx", "--inputs", CASE, "-o", "out"],
    ] {
        let message = place.fails(3, args, &words);
        assert!(!message.contains("Relu"), "{message}");
    }
    assert!(!place.path("out").exists());
}

#[test]
fn inputs_must_be_those_of_the_model() {
    let place = Place::new();
    for command in ["run", "gradients"] {
        let refused = |words: &[&str], change: &dyn Fn(&mut Tensors)| {
            place.changed(CASE, "bad.safetensors", change);
            place.fails(1, &[command, "model.onnx", "--inputs", "bad.safetensors", "-o", "out"], words);
            assert!(!place.path("out").exists());
        };
        refused(&["`hidden_states` is missing", "timestep", "class_labels"], &|t| {
            let tensor = t.remove("hidden_states").unwrap();
            t.insert("hidden_state".to_owned(), tensor);
        });
        refused(&["`hidden_states` must have shape [2, 4, 16, 16], not [2, 4, 32, 8]"], &|t| {
            let values = t["hidden_states"].to_f32();
            t.insert("hidden_states".to_owned(), Tensor::f32(&[2, 4, 32, 8], values).unwrap());
        });
        refused(&["`timestep`", "must be i64", "f32 cannot be converted without loss"], &|t| {
            t.insert("timestep".to_owned(), Tensor::f32(&[2], vec![0.5, 1.5]).unwrap());
        });
        place.fails(
            1,
            &[command, "model.onnx", "--inputs", "model.onnx", "-o", "out"],
            &["model.onnx: is not a safetensors file"],
        );
        place.fails(1, &[command, "model.onnx", "--inputs", "absent", "-o", "out"], &["absent", "No such file"]);
    }
    place.changed(CASE, "bad.safetensors", |t| drop(t.remove("target")));
    let gradients = ["gradients", "model.onnx", "--inputs", "bad.safetensors", "-o", "out"];
    place.fails(1, &gradients, &["bad.safetensors", "`target` is missing"]);
}

#[test]
fn batches_must_fit_the_plan() {
    let place = Place::compiled();
    let refused = |words: &[&str], change: &dyn Fn(&mut Tensors)| {
        place.changed(BATCHES, "bad.safetensors", change);
        place.train_fails(1, &["--batches", "bad.safetensors"], words);
    };
    refused(&["`hidden_states`", "is missing in the data", "class_labels, target"], &|t| {
        drop(t.remove("hidden_states"))
    });
    refused(&["`target`", "is missing in the data"], &|t| drop(t.remove("target")));
    refused(&["`mask`", "is in the data and not an input", "class_labels, target"], &|t| {
        let tensor = t["target"].clone();
        t.insert("mask".to_owned(), tensor);
    });
    refused(&["`hidden_states`", "must have shape [2, 4, 16, 16], not [2, 4, 32, 8]"], &|t| {
        let values = t["hidden_states"].to_f32();
        t.insert("hidden_states".to_owned(), Tensor::f32(&[12, 2, 4, 32, 8], values).unwrap());
    });
    refused(&["`timestep`", "must be i64", "f32"], &|t| {
        t.insert("timestep".to_owned(), Tensor::f32(&[12, 2], vec![0.5; 24]).unwrap());
    });
    refused(&["bad.safetensors", "`timestep`", "11 steps", "12"], &|t| {
        t.insert("timestep".to_owned(), Tensor::i64(&[11, 2], vec![1; 22]).unwrap());
    });
    refused(&["bad.safetensors", "holds no batches"], &|t| t.clear());
    refused(&["bad.safetensors", "holds no batches"], &|t| {
        *t = t.iter().map(|(n, t)| (n.clone(), Tensor::from_bytes(t.dtype(), &[0, 2], &[]).unwrap())).collect();
    });
    place.train_fails(1, &["--batches", "model.onnx"], &["model.onnx: is not a safetensors file"]);
}

#[test]
fn numbers_that_are_not_finite_end_a_training() {
    let place = Place::compiled();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for name in ["hidden_states", "target"] {
            let bad = |t: &mut Tensors| {
                let tensor = with_first(&t[name], value);
                t.insert(name.to_owned(), tensor);
            };
            place.changed(BATCHES, "bad.safetensors", bad);
            // An infinity may be meant, so the first NaN that comes of it is named too.
            let place_of = if value.is_nan() { format!("first in `{name}`") } else { format!("in `{name}`") };
            let words = ["step 1", "loss is not finite", &place_of, "check the data"];
            place.train_fails(1, &["--batches", "bad.safetensors"], &words);
            place.changed(CASE, "bad.safetensors", bad);
            let gradients = ["gradients", "model.onnx", "--inputs", "bad.safetensors", "-o", "out"];
            place.fails(1, &gradients, &["bad.safetensors", &format!("`{name}` holds NaN or infinity")]);
            assert!(!place.path("out").exists());
        }
        // A model may be meant to see such inputs; its outputs are written, with a warning.
        place.changed(CASE, "bad.safetensors", |t| {
            let tensor = with_first(&t["hidden_states"], value);
            t.insert("hidden_states".to_owned(), tensor);
        });
        let output = place.sara(&["run", "model.onnx", "--inputs", "bad.safetensors", "-o", "odd"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stderr).contains("warning: output `out_sample` holds NaN or infinity"));
    }
}

#[test]
fn a_selection_must_select() {
    let place = Place::new();
    let refused = |code, more: &[&str], words: &[&str]| {
        place.fails(code, &[&["compile", "model.onnx", "-o", "out"], more].concat(), words);
        assert!(!place.path("out").exists());
    };
    refused(1, &["--threshold", "1e-30"], &["threshold 1e-30 selects nothing", "raise --threshold"]);
    refused(1, &["--target", "nowhere"], &["no weight is eligible", "--target"]);
    refused(2, &["--threshold", "0"], &["--threshold must be a number above 0"]);
    refused(2, &["--threshold", "nan"], &["--threshold must be a number above 0"]);
    refused(2, &["--density", "2"], &["--density", "at most 1"]);
    refused(2, &["--trainable-params", "few"], &["--trainable-params", "5M"]);
    refused(2, &["--threshold", "1e-3", "--density", "0.1"], &["cannot be used with"]);
    refused(2, &["--target", "("], &["--target", "regex"]);
    refused(2, &["--dim", "batch"], &["--dim", "NAME=SIZE"]);
    refused(1, &["--dim", "batch=2"], &["model.onnx", "`batch`", "fixed"]);
}

#[test]
fn open_dimensions_must_be_bound() {
    let place = Place::new();
    place.copy("pipeline.unet.onnx", "model.onnx");
    let compile = |more: &[&'static str]| [&["compile", "model.onnx", "-o", "out"], more].concat();
    let words = ["model.onnx", "--dim NAME=SIZE", "height", "sequence_length", "width"];
    place.fails(1, &compile(&[]), &words);
    place.fails(1, &compile(&["--dim", "hight=8"]), &["model.onnx", "no dimension `hight`", "height"]);
    let bound = ["--dim", "height=8", "--dim", "width=8", "--dim", "sequence_length=5"];
    place.ok(&compile(&bound));
    // Inspecting needs no sizes.
    assert!(place.ok(&["inspect", "model.onnx"]).contains("dimensions batch_size, height, width, sequence_length"));
}

#[test]
fn flags_are_checked() {
    let place = Place::compiled();
    place.train_fails(2, &["--max-train-step", "3"], &["--max-train-step'", "--max-train-steps"]);
    place.fails(2, &["trian"], &["trian", "train"]);
    place.fails(2, &["compile", "model.onnx"], &["--output"]);
    place.fails(2, &["export", "run"], &["--output, --weights, --adapter"]);
    place.fails(2, &["compile", "model.onnx", "-o", "out", "--dump-after", "fuze"], &["--dump-after", "fuse"]);
    for (flag, value) in [
        ("--learning-rate", "-1"),
        ("--learning-rate", "fast"),
        ("--lr-scheduler", "cosin"),
        ("--adam-beta1", "1"),
        ("--adam-beta2", "nan"),
        ("--adam-epsilon", "0"),
        ("--adam-weight-decay", "inf"),
        ("--max-grad-norm", "-1"),
        ("--lambda-rank", "-1"),
        ("--gradient-accumulation-steps", "0"),
        ("--max-train-steps", "-1"),
        ("--threads", "0"),
    ] {
        place.train_fails(2, &[&format!("{flag}={value}")], &[flag]);
    }
    // By the paper's rule nothing would move.
    place.ok(&["compile", "model.onnx", "-o", "model.plan", "--trainable-params", "100M"]);
    place.train_fails(2, &[], &["learning rate", "threshold", "give --learning-rate"]);
    place.ok(&[&TRAIN[..], &["--learning-rate", "1e-3", "--max-train-steps", "1"]].concat());
}

#[test]
fn flags_may_be_written_with_underscores() {
    let place = Place::compiled();
    let log = |run: &str| text(&place.read(&format!("{run}/metrics.jsonl"))).lines().count();
    place.ok(&[&TRAIN[..], &["--max_train_steps", "3", "--lr_warmup_steps=1"]].concat());
    assert_eq!(log("run"), 3);
    place.ok(&["train", "model.plan", "--batches", BATCHES, "--output_dir=other", "--max_train_steps=2"]);
    assert_eq!(log("other"), 2);
}

#[test]
fn a_run_is_not_overwritten() {
    let place = Place::compiled();
    place.ok(&TRAIN);
    let adapter = place.read("run/adapter/adapter.safetensors");
    place.fails(2, &TRAIN, &["run", "--resume-from-checkpoint latest", "--output-dir"]);
    assert_eq!(place.read("run/adapter/adapter.safetensors"), adapter);
}

#[test]
fn the_rule_of_the_paper_gives_a_rate_that_survives_a_checkpoint() {
    let place = Place::new();
    // The rate of this threshold is a number whose decimal form is read back inexactly by careless readers.
    place.ok(&["compile", "model.onnx", "-o", "model.plan", "--threshold", "2e-4"]);
    place.ok(&[&TRAIN[..], &["--max-train-steps", "2"]].concat());
    place.ok(&[&TRAIN[..], &["--max-train-steps", "4", "--resume-from-checkpoint", "latest"]].concat());
}

#[test]
fn a_run_that_was_cut_off_is_not_exported() {
    let place = Place::compiled();
    let train = ["--max-train-steps", "3", "--checkpointing-steps", "1"];
    place.ok(&[&TRAIN[..], &train].concat());
    place.ok(&["export", "run", "-o", "out/tuned.onnx"]);
    let adapter = place.path("run/adapter/adapter.safetensors");
    let later = place.path("run/checkpoint-000009");
    std::fs::rename(place.path("run/checkpoint-000002"), &later).unwrap();
    place.fails(1, &["export", "run", "-o", "out/again.onnx"], &["run", "after step 9", "--resume-from-checkpoint"]);
    std::fs::remove_dir_all(later).unwrap();
    std::fs::remove_file(adapter).unwrap();
    place.fails(1, &["export", "run", "-o", "out/again.onnx"], &["run", "has not ended", "--resume-from-checkpoint"]);
    assert!(!place.path("out/again.onnx").exists());
}

#[test]
fn a_configuration_gives_defaults() {
    let place = Place::compiled();
    let train = |more: &[&str]| {
        let json = [&TRAIN[..], &["--json", "--config", "sara.toml"], more].concat();
        let _ = std::fs::remove_dir_all(place.path("run"));
        let lines: Vec<Value> = place.ok(&json).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        (lines.len(), lines[0]["learning_rate"].as_f64().unwrap())
    };
    place.write("sara.toml", "max_train_steps = 2\nlearning_rate = 3e-4\nlr_scheduler = \"constant\"\n");
    assert_eq!(train(&[]), (2, 3e-4));
    assert_eq!(train(&["--max-train-steps", "4", "--learning-rate", "2e-4"]), (4, 2e-4));
    place.write("sara.toml", "learning_rate = \"auto\"\nlr_scheduler = \"constant\"\n");
    let (steps, rate) = train(&[]);
    assert_eq!(steps, 12, "one pass is the default");
    assert!((rate / (1e-3 * (-350.0f64 * 5e-3).exp()) - 1.0).abs() < 1e-6, "{rate}");
    // More accumulation than there are batches is still a step.
    assert_eq!(train(&["--gradient-accumulation-steps", "20"]).0, 1);
}

#[test]
fn a_bad_configuration_is_refused() {
    let place = Place::compiled();
    let refused = |content: &str, words: &[&str]| {
        place.write("sara.toml", content);
        let words = [&["sara.toml"], words].concat();
        place.train_fails(2, &["--config", "sara.toml"], &words)
    };
    for (key, meant) in [
        ("max_train_step", "max_train_steps"),
        ("max-train-steps", "max_train_steps"),
        ("lerning_rate", "learning_rate"),
        ("Seed", "seed"),
        ("adam_beta", "adam_beta1"),
    ] {
        let found = refused(&format!("{key} = 3\n"), &[&format!("unknown field `{key}`")]);
        let hint = found.lines().find_map(|l| l.strip_prefix("did you mean `")?.strip_suffix("`?"));
        assert_eq!(hint, Some(meant), "{key}: {found}");
    }
    let message = refused("batch_size = 3\n", &["unknown field `batch_size`", "`learning_rate`"]);
    assert!(!message.contains("did you mean"), "{message}");
    refused("max_train_steps = -1\n", &["line 1", "-1"]);
    refused("seed = 1\nlr_scheduler = \"cosin\"\n", &["line 2", "cosin", "cosine"]);
    refused("learning_rate = \"fast\"\n", &["line 1", "`auto`"]);
    refused("learning_rate 3\n", &["line 1"]);
    place.write("sara.toml", "adam_beta1 = 2.0\n");
    place.train_fails(2, &["--config", "sara.toml"], &["--adam-beta1", "below 1"]);
    place.train_fails(1, &["--config", "absent.toml"], &["absent.toml", "No such file"]);
}

#[test]
fn other_files_are_no_plans() {
    let place = Place::compiled();
    let plan = place.read("model.plan");
    let refused = |content: &[u8], words: &[&str]| {
        place.write("model.plan", content);
        place.train_fails(1, &[], &[&["model.plan"], words].concat());
    };
    refused(&place.read("model.onnx"), &["is not a plan", "`sara compile`"]);
    refused(b"", &["is not a plan"]);
    for len in [9, 11, 20, 1000, plan.len() - 1] {
        refused(&plan[..len], &["damaged plan", "compile it again"]);
    }
    let mut flipped = plan.clone();
    flipped[plan.len() / 2] ^= 1;
    refused(&flipped, &["damaged plan", "compile it again"]);
    // The version follows nine bytes that all plans begin with.
    let mut later = plan.clone();
    let version = u32::from_le_bytes(later[9..13].try_into().unwrap());
    later[9..13].copy_from_slice(&(version + 1).to_le_bytes());
    let (other, own) = (format!("version {}", version + 1), format!("reads version {version}"));
    refused(&later, &[&other, &own, "compile it again"]);
    std::fs::remove_file(place.path("model.plan")).unwrap();
    place.train_fails(1, &[], &["model.plan", "No such file"]);
}

#[test]
fn a_plan_wants_its_model() {
    let place = Place::compiled();
    std::fs::rename(place.path("model.onnx"), place.path("moved.onnx")).unwrap();
    place.train_fails(1, &[], &["model.onnx", "is not there", "--model"]);
    let mut other = place.read("moved.onnx");
    let last = other.len() - 1;
    other[last] ^= 1;
    place.write("model.onnx", other);
    place.train_fails(1, &[], &["model.onnx", "is not the model that the plan was compiled from", "compile"]);
    place.ok(&[&TRAIN[..], &["--model", "moved.onnx", "--max-train-steps", "1"]].concat());
}

#[test]
fn a_run_resumes_from_what_there_is() {
    let place = Place::compiled();
    place.train_fails(1, &["--resume-from-checkpoint", "latest"], &["run", "no checkpoint"]);
    place.train_fails(1, &["--resume-from-checkpoint", "run/checkpoint-000007"], &["checkpoint-000007", "`latest`"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    place.train_fails(1, &["--resume-from-checkpoint", "empty"], &["empty/manifest.json"]);
    place.fails(1, &["export", "absent", "-o", "out.onnx"], &["absent/run.toml", "--output-dir", "`sara train`"]);
}

#[test]
fn outputs_must_be_writable() {
    let place = Place::compiled();
    // A file stands where a folder would have to be.
    for args in [
        &["compile", "model.onnx", "-o", "model.plan/new/out"][..],
        &["run", "model.onnx", "--inputs", CASE, "-o", "model.plan/new/out"],
        &["gradients", "model.onnx", "--inputs", CASE, "-o", "model.plan/new/out"],
        &["train", "model.plan", "--batches", BATCHES, "--output-dir", "model.plan/run"],
    ] {
        place.fails(1, args, &["model.plan", "Not a directory"]);
    }
    place.ok(&[&TRAIN[..], &["--max-train-steps", "1"]].concat());
    for flag in ["--output", "--weights", "--adapter"] {
        place.fails(1, &["export", "run", flag, "model.plan/new/out"], &["model.plan", "Not a directory"]);
    }
    // Folders that are missing are made.
    place.ok(&["run", "model.onnx", "--inputs", CASE, "-o", "new/folder/out"]);
    assert!(place.path("new/folder/out").is_file());
}

#[test]
fn files_that_are_read_are_not_written_over() {
    let place = Place::compiled();
    place.ok(&[&TRAIN[..], &["--max-train-steps", "1"]].concat());
    place.ok(&["export", "run", "--adapter", "own.safetensors"]);
    std::os::unix::fs::symlink("model.onnx", place.path("link.onnx")).unwrap();
    let adapter = "run/adapter/adapter.safetensors";
    for (args, file) in [
        (&["compile", "model.onnx", "-o", "model.onnx"][..], "model.onnx"),
        (&["compile", "model.onnx", "-o", "./link.onnx"], "model.onnx"),
        (&["run", "model.onnx", "--inputs", CASE, "-o", "model.onnx"], "model.onnx"),
        (&["run", "model.onnx", "--inputs", CASE, "-o", CASE], CASE),
        (&["gradients", "model.onnx", "--inputs", CASE, "-o", "model.onnx"], "model.onnx"),
        (&["gradients", "model.onnx", "--inputs", CASE, "-o", CASE], CASE),
        (&["export", "run", "-o", "model.onnx"], "model.onnx"),
        (&["export", "run", "--weights", "model.onnx"], "model.onnx"),
        (&["export", "run", "--weights", adapter], adapter),
        (&["export", "run", "--adapter", "model.onnx"], "model.onnx"),
        (&["merge", "model.onnx", "--adapter", "own.safetensors", "-o", "model.onnx"], "model.onnx"),
        (&["merge", "model.onnx", "--adapter", "own.safetensors", "-o", "own.safetensors"], "own.safetensors"),
    ] {
        let before = place.read(file);
        place.fails(1, args, &["would overwrite", file, "choose another"]);
        assert!(place.read(file) == before, "{args:?}: {file} changed");
    }
}

#[test]
fn an_adapter_goes_with_its_base_only() {
    let place = Place::compiled();
    place.ok(&[&TRAIN[..], &["--max-train-steps", "1", "--learning-rate", "1e-3"]].concat());
    place.copy("sd15_unet.ts.onnx", "unet.onnx");
    let merge = |model| ["merge", model, "--adapter", "run/adapter/adapter.safetensors", "-o", "out.onnx"];
    place.fails(1, &merge("unet.onnx"), &["the adapter is for another base"]);
    place.fails(1, &["merge", "model.onnx", "--adapter", CASE, "-o", "out.onnx"], &[CASE, "adapter"]);
    place.fails(2, &["merge", "model.onnx", "--adapter", "a.safetensors:inf", "-o", "out.onnx"], &["not a scale"]);
    assert!(!place.path("out.onnx").exists());
    place.ok(&merge("model.onnx"));
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
