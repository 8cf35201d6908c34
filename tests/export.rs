//! The command line from compiling to exporting: what changes in the model's file, and what is left when something fails.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use sara::runtime::adapter::Adapter;
use sara::runtime::plan::{Plan, Stored};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const MODEL: &str = "dit.dynamo.onnx";

fn reference(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

/// A folder with a copy of a model and, once they are made, a plan and a run.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder };
        // Two fields that no reader of ONNX knows: number 999, bytes and a varint.
        let mut bytes = std::fs::read(reference(MODEL)).unwrap();
        bytes.extend([0xba, 0x3e, 5, b'h', b'e', b'l', b'l', b'o', 0xb8, 0x3e, 42]);
        std::fs::write(place.path("model.onnx"), bytes).unwrap();
        place
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn sara(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sara")).current_dir(self.folder.path()).args(args).output().unwrap()
    }

    /// Runs a command that must succeed.
    fn ok(&self, args: &[&str]) -> Output {
        let output = self.sara(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        output
    }

    /// Runs a command that must fail with exit code 1, and returns what it says.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.sara(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        stderr(&output)
    }

    fn compile(&self) -> Plan {
        self.ok(&["compile", "model.onnx", "-o", "model.plan", "--threshold", "5e-3"]);
        Plan::load(&self.path("model.plan")).unwrap()
    }

    fn train(&self, run: &str) {
        let args = [&["train", "model.plan", "--output-dir", run], &TRAIN[..]].concat();
        self.ok(&[&args[..], &["--batches", &batches()]].concat());
    }

    /// Names of all files in a subfolder.
    fn files(&self, folder: &str) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

const TRAIN: [&str; 6] = ["--learning-rate", "1e-3", "--threads", "2", "--seed", "5"];

fn batches() -> String {
    reference("trajectory/dit.dynamo.batches.safetensors").to_string_lossy().into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn an_export_differs_in_the_trained_elements_only() {
    let place = Place::new();
    let plan = place.compile();
    place.train("run");
    place.ok(&["export", "run", "-o", "out/tuned.onnx"]);
    assert_eq!(place.files("out"), BTreeSet::from(["tuned.onnx".to_owned()]));
    let (original, tuned) = (read(place.path("model.onnx")), read(place.path("out/tuned.onnx")));
    assert_eq!(original.len(), tuned.len());
    let mut trained = BTreeSet::new();
    for sparse in &plan.sparse {
        let weight = &plan.weights[sparse.weight as usize];
        assert_eq!(weight.stored, Stored::Plain(sara::kernels::DType::F32));
        trained.extend(sparse.index.iter().map(|i| weight.offset as usize + 4 * *i as usize));
    }
    let mut elements = BTreeSet::new();
    for at in (0..original.len()).filter(|at| original[*at] != tuned[*at]) {
        let element = trained.range(..=at).next_back().filter(|start| at - **start < 4);
        elements.insert(*element.unwrap_or_else(|| panic!("byte {at} changed and belongs to no trained element")));
    }
    assert!(elements.len() > trained.len() * 9 / 10, "{} of {} changed", elements.len(), trained.len());
    // What is written is what was trained.
    let adapter = Adapter::read(&place.path("run/adapter/adapter.safetensors")).unwrap();
    let value = |bytes: &[u8], at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut compared = 0;
    for sparse in &plan.sparse {
        let weight = &plan.weights[sparse.weight as usize];
        let delta = &adapter.deltas[&weight.path];
        for (i, d) in delta.index.iter().zip(&delta.delta) {
            let at = weight.offset as usize + 4 * *i as usize;
            assert_eq!(value(&tuned, at), value(&original, at) + d);
            compared += 1;
        }
    }
    assert!(compared >= elements.len());
}

#[test]
fn merging_the_adapter_is_exporting() {
    let place = Place::new();
    place.compile();
    place.train("run");
    place.ok(&["export", "run", "-o", "out/tuned.onnx", "--adapter", "own.safetensors"]);
    let (original, tuned) = (read(place.path("model.onnx")), read(place.path("out/tuned.onnx")));
    assert!(original != tuned);
    place.ok(&["merge", "model.onnx", "--adapter", "own.safetensors", "-o", "out/merged.onnx"]);
    assert!(read(place.path("out/merged.onnx")) == tuned, "merging differs from exporting");
    place.ok(&["merge", "model.onnx", "--adapter", "own.safetensors:0", "-o", "out/none.onnx"]);
    assert!(read(place.path("out/none.onnx")) == original, "a scale of 0 changes the model");
    let halves = ["--adapter", "own.safetensors:0.5", "--adapter", "own.safetensors:0.5"];
    place.ok(&[&["merge", "model.onnx"], &halves[..], &["-o", "out/halves.onnx"]].concat());
    assert!(read(place.path("out/halves.onnx")) == tuned, "two halves are not the whole");
    let twice = ["merge", "model.onnx", "--adapter", "own.safetensors:2", "-o", "out/twice.onnx"];
    place.ok(&twice);
    assert!(read(place.path("out/twice.onnx")) != tuned, "the scale does nothing");
    assert!(read(place.path("model.onnx")) == original);
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let place = Place::new();
    let plan = place.compile();
    place.train("run");
    place.ok(&["export", "run", "--adapter", "own.safetensors"]);
    // Another element of a trained weight, and another architecture.
    let mut other = read(place.path("model.onnx"));
    let weight = &plan.weights[plan.sparse[0].weight as usize];
    other[weight.offset as usize + 1] ^= 1;
    std::fs::write(place.path("other.onnx"), other).unwrap();
    std::fs::copy(reference("sd15_unet.ts.onnx"), place.path("unet.onnx")).unwrap();
    for (model, key) in [("other.onnx", weight.path.as_str()), ("unet.onnx", "")] {
        let error = place.fails(&["merge", model, "--adapter", "own.safetensors", "-o", "out/merged.onnx"]);
        assert!(error.contains("the adapter is for another base") && error.contains(key), "{error}");
        assert!(!place.path("out").exists(), "{model}: something was written");
    }
    // A model that is replaced after training is no base either.
    std::fs::copy(place.path("other.onnx"), place.path("model.onnx")).unwrap();
    let error = place.fails(&["export", "run", "-o", "out/tuned.onnx"]);
    assert!(error.contains("another base"), "{error}");
}

#[test]
fn an_export_never_overwrites_its_original() {
    let place = Place::new();
    place.compile();
    place.train("run");
    let before = place.files(".");
    let original = read(place.path("model.onnx"));
    let error = place.fails(&["export", "run", "-o", "model.onnx"]);
    assert!(error.contains("would overwrite the original's model.onnx"), "{error}");
    assert!(read(place.path("model.onnx")) == original);
    assert_eq!(place.files("."), before);
}

/// A limit on the size of files stands for a full disk: the write that passes it fails.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let place = Place::new();
    place.compile();
    place.train("run");
    place.ok(&["export", "run", "-o", "out/tuned.onnx"]);
    let (original, earlier) = (read(place.path("model.onnx")), read(place.path("out/tuned.onnx")));
    // `ulimit -f` counts blocks of 512 bytes; the model has some 600 of them.
    let limited = |command: &str| {
        let script = format!("trap '' XFSZ; ulimit -f 64; exec \"$0\" {command}");
        let sh = Command::new("sh")
            .current_dir(place.folder.path())
            .args(["-c", &script, env!("CARGO_BIN_EXE_sara")])
            .output();
        sh.unwrap()
    };
    for (command, file) in [
        ("export run -o out/tuned.onnx", "out/tuned.onnx"),
        ("export run -o fresh/tuned.onnx", "fresh/tuned.onnx"),
        ("merge model.onnx --adapter run/adapter/adapter.safetensors -o fresh/merged.onnx", "fresh/merged.onnx"),
        ("export run --weights fresh/weights.safetensors", "fresh/weights.safetensors"),
        ("compile model.onnx -o fresh/small.plan --threshold 1", "fresh/small.plan"),
    ] {
        let output = limited(command);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {error}");
        assert!(error.contains(file) && error.contains("File too large"), "{command}: {error}");
        assert!(read(place.path("model.onnx")) == original, "{command}: the original changed");
        assert!(read(place.path("out/tuned.onnx")) == earlier, "{command}: the earlier export changed");
        assert_eq!(place.files("out"), BTreeSet::from(["tuned.onnx".to_owned()]), "{command}");
        if place.path("fresh").exists() {
            assert_eq!(place.files("fresh"), BTreeSet::new(), "{command}");
        }
    }
    // A checkpoint that does not fit leaves no half of one.
    let train = format!("train model.plan --output-dir other --batches {} {}", batches(), TRAIN.join(" "));
    let output = limited(&train);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("checkpoint-"), "{}", stderr(&output));
    let left: Vec<String> = place.files("other").into_iter().filter(|f| f.contains("checkpoint")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Sends SIGINT to a process.
fn interrupt(pid: u32) {
    assert!(Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn an_interrupted_run_saves_and_resumes() {
    let place = Place::new();
    place.compile();
    let train = |run: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sara"));
        command.current_dir(place.folder.path()).args(["train", "model.plan", "--output-dir", run, "--batches"]);
        command
            .arg(batches())
            .args(TRAIN)
            .args(["--lr-scheduler", "constant", "--checkpointing-steps", "0"])
            .args(more);
        command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        command
    };
    // More steps than it will have time for.
    let child = train("run", &["--max-train-steps", "1000000"]).spawn().unwrap();
    let start = Instant::now();
    let log = place.path("run/metrics.jsonl");
    while std::fs::read_to_string(&log).map_or(0, |t| t.lines().count()) < 3 {
        assert!(start.elapsed() < Duration::from_secs(60), "training does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(child.id());
    let output = child.wait_with_output().unwrap();
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{error}");
    let checkpoints: Vec<String> = place.files("run").into_iter().filter(|f| f.contains("checkpoint")).collect();
    assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
    assert!(error.contains("interrupted after step") && error.contains(&checkpoints[0]), "{error}");
    let done: u64 = checkpoints[0].strip_prefix("checkpoint-").unwrap().parse().unwrap();
    assert!(done >= 3);
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count() as u64, done);
    // The rest, against a run that was never interrupted.
    let total = (done + 4).to_string();
    let output = train("run", &["--max-train-steps", &total, "--resume-from-checkpoint", "latest"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let output = train("straight", &["--max-train-steps", &total]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let adapter = |run: &str| read(place.path(run).join("adapter/adapter.safetensors"));
    assert!(adapter("run") == adapter("straight"), "the resumed run ends differently");
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count() as u64, done + 4);
    let output = train("run", &["--resume-from-checkpoint", "latest", "--seed", "6"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("was trained with other options"), "{}", stderr(&output));
}
