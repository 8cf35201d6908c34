//! The command with `--device cuda`, in front of a driver whose device is this processor: it runs work as late as a driver may, and
//! refuses what a driver refuses.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use sara::runtime::oracle::find;
use sara::runtime::tensor::{Tensors, read_safetensors};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a copy of a small transformer, a case of its inputs and batches to train it on.
struct Place {
    folder: tempfile::TempDir,
    driver: PathBuf,
    oracle: PathBuf,
}

impl Place {
    fn new() -> Place {
        let driver = sara_shim::driver().unwrap_or_else(|e| panic!("{e}"));
        let oracle = find::find().expect("ONNX Runtime is needed for this test").path;
        let place = Place { folder: tempfile::tempdir().unwrap(), driver, oracle };
        for (from, to) in [
            ("dit.dynamo.onnx", "model.onnx"),
            ("dit.dynamo.case.safetensors", "case.safetensors"),
            ("trajectory/dit.dynamo.batches.safetensors", "batches.safetensors"),
        ] {
            let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(from);
            std::fs::copy(reference, place.path(to)).unwrap();
        }
        place
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Runs a command on devices that the environment describes.
    fn sara(&self, devices: &[(&str, &str)], args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sara"))
            .current_dir(self.folder.path())
            .env("LD_LIBRARY_PATH", &self.driver)
            .env("CUDA_HOME", &self.driver)
            .env_remove("CUDA_PATH")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("ORT_DYLIB_PATH", &self.oracle)
            .envs(devices.iter().copied())
            .args(args)
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed and about which the driver has nothing to say.
    fn ok(&self, args: &[&str]) -> String {
        self.ok_on(&[], args)
    }

    /// The same, on devices that the environment describes.
    fn ok_on(&self, devices: &[(&str, &str)], args: &[&str]) -> String {
        let output = self.sara(devices, args);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {errors}");
        assert!(!errors.contains("driver:"), "{args:?}: {errors}");
        text(&output.stdout)
    }

    fn compile(&self, more: &[&str]) {
        self.ok(&[&["compile", "model.onnx", "-o", "model.plan", "--threshold", "5e-3"], more].concat());
    }

    /// What training on a device writes.
    fn trained(&self, device: &str, more: &[&str]) -> Tensors {
        self.trained_on(&[], device, more)
    }

    fn trained_on(&self, devices: &[(&str, &str)], device: &str, more: &[&str]) -> Tensors {
        let folder = format!("run.{}", std::fs::read_dir(self.folder.path()).unwrap().count());
        let train = ["train", "model.plan", "--batches", "batches.safetensors", "--output-dir", &folder];
        self.ok_on(devices, &[&train[..], &["--max-train-steps", "5", "--device", device], more].concat());
        read_safetensors(&self.path(&folder).join("adapter/adapter.safetensors")).unwrap().0
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The largest difference of two trainings, as a part of the largest value.
fn apart(a: &Tensors, b: &Tensors) -> f64 {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let (mut difference, mut largest) = (0f64, 0f64);
    for (name, a) in a {
        for (a, b) in a.to_f64().iter().zip(b[name].to_f64()) {
            difference = difference.max((a - b).abs());
            largest = largest.max(a.abs());
        }
    }
    difference / largest
}

#[test]
fn training_in_graphs_is_that_of_the_cpu() {
    let place = Place::new();
    place.compile(&[]);
    let on_cpu = place.trained("cpu", &[]);
    let on_gpu = place.trained("cuda", &[]);
    let difference = apart(&on_cpu, &on_gpu);
    assert!(difference > 0.0 && difference < 1e-4, "{difference}");
    assert_eq!(place.trained("cuda", &[]), on_gpu);
}

/// Copies of weights run beside launches, from two slots of pinned memory in turn, whichever stream is ahead of the other.
#[test]
fn streamed_weights_are_those_that_stay() {
    let place = Place::new();
    place.compile(&[]);
    let held = place.trained("cuda", &[]);
    place.compile(&["--weights", "streamed"]);
    for eager in ["0", "1", "2"] {
        assert_eq!(place.trained_on(&[("SHIM_EAGER", eager)], "cuda", &[]), held, "{eager}");
    }
}

/// What other kernels take, and programs that are bound again: half precision, moments of a byte, gradients that are
/// added up, and another choice of entries.
#[test]
fn other_trainings_end_near_those_of_the_cpu() {
    let place = Place::new();
    for (compile, train) in [
        (&["--mixed-precision", "bf16"][..], &[][..]),
        (&["--use-8bit-adam"], &[]),
        (&["--select", "all"], &["--gradient-accumulation-steps", "2"]),
        (&[], &["--progressive-iter", "3", "--lambda-rank", "1e-3"]),
    ] {
        place.compile(compile);
        let difference = apart(&place.trained("cpu", train), &place.trained("cuda", train));
        assert!(difference < 2e-2, "{compile:?} {train:?}: {difference}");
    }
}

#[test]
fn kernels_are_compared_and_timed() {
    let place = Place::new();
    let said = place.ok(&["doctor"]);
    for part in ["driver for CUDA 12.4", "cuda:0       Shim 0, compute capability 9.0, 4096 MiB", "nvrtc        12.4"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    place.ok(&["verify", "model.onnx", "--device", "cuda"]);
    let said = place.ok(&["bench", "model.onnx", "--device", "cuda", "--repeat", "1", "--threshold", "5e-3"]);
    assert!(said.contains("Shim 0") && said.contains("masked_matmul_grad"), "{said}");
}

/// The forecast is what training takes, to the byte that decides; plans stay within what a device has free, or what would is said.
#[test]
fn plans_are_made_for_the_memory_of_a_device() {
    let place = Place::new();
    let compile = ["compile", "model.onnx", "-o", "model.plan", "--threshold", "5e-3", "--device", "cuda", "--json"];
    let planned = |memory: u64, more: &[&str]| {
        let said = place.ok_on(&[("SHIM_MEMORY", &memory.to_string())], &[&compile[..], more].concat());
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["memory"]["total"].as_u64().unwrap()
    };
    let train = |memory: u64, expected: i32| {
        let run = format!("run.{memory}");
        let args =
            ["train", "model.plan", "--batches", "batches.safetensors", "--device", "cuda", "--output-dir", &run];
        let args = [&args[..], &["--max-train-steps", "2"]].concat();
        let output = place.sara(&[("SHIM_MEMORY", &memory.to_string())], &args);
        assert_eq!(output.status.code(), Some(expected), "{memory}: {}", text(&output.stderr));
        place.path(&run).join("adapter/adapter.safetensors")
    };
    let roomy = planned(4 << 30, &[]);
    train(roomy - 1, 5);
    let held = read_safetensors(&train(roomy, 0)).unwrap().0;
    // Less memory for more computing changes no bit.
    let tight = roomy - 4096;
    assert!(planned(tight, &[]) < tight);
    assert_eq!(read_safetensors(&train(tight, 0)).unwrap().0, held);
    let small = roomy / 3 * 2;
    let output = place.sara(&[("SHIM_MEMORY", &small.to_string())], &compile);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    for words in ["Shim 0 has", "training may take", "at least", "within it stays", "--weights streamed"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let least = planned(small, &["--weights", "streamed"]);
    assert!(least < small, "{least} of {roomy}");
}

/// What devices and drivers lack is said before anything is read or compiled.
#[test]
fn what_is_missing_is_said() {
    let place = Place::new();
    place.compile(&[]);
    let empty = place.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let train = ["train", "model.plan", "--batches", "batches.safetensors", "--output-dir", "run", "--device"];
    for (devices, device, code, words) in [
        (&[("SHIM_DEVICES", "0")][..], "cuda", 1, &["finds no device", "CUDA_VISIBLE_DEVICES", "--device cpu"][..]),
        (&[("SHIM_DEVICES", "2")], "cuda:2", 1, &["there is no device cuda:2", "there are 2, counted from 0"]),
        (&[("SHIM_INIT", "34")], "cuda", 1, &["stub", "--device cpu"]),
        (&[("SHIM_INIT", "803")], "cuda", 1, &["restart", "--device cpu"]),
        (&[("SHIM_INIT", "999")], "cuda", 1, &["the CUDA driver does not work"]),
        (&[("SHIM_DRIVER", "11020")], "cuda", 1, &["CUDA 11.2", "11.4 is needed", "update NVIDIA's driver"]),
        (&[("SHIM_CAPABILITY", "7.0")], "cuda", 1, &["compute capability 7.0", "7.5 is needed", "--device cpu"]),
        (&[("SHIM_CAPABILITY", "12.1")], "cuda", 1, &["NVRTC 12.4", "compute capability 12.1", "--fetch-nvrtc"]),
        (&[("SHIM_NVRTC", "13.0")], "cuda", 1, &["NVRTC 13.0", "CUDA 13", "12.4", "update NVIDIA's driver"]),
        (&[("CUDA_HOME", empty)], "cuda", 1, &["NVRTC", "is not here", "--fetch-nvrtc"]),
        (&[("SHIM_MEMORY", "100000")], "cuda", 5, &["Shim 0 has 0.1 MiB free of 0.1", "are needed", "--device cuda"]),
        (&[("SHIM_LARGEST", "100000")], "cuda", 5, &["Shim 0 has 40", "in one piece", "end what else uses it"]),
    ] {
        let output = place.sara(devices, &[&train[..], &[device]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{devices:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{devices:?}: no {word:?} in {said}");
        }
        assert!(!said.contains("panicked") && !place.path("run/adapter").exists(), "{devices:?}: {said}");
    }
    // Where there is none, `auto` does without.
    for devices in [[("SHIM_DEVICES", "0")], [("SHIM_DRIVER", "11020")]] {
        let run =
            ["run", "model.onnx", "--inputs", "case.safetensors", "--output", "out.safetensors", "--device", "auto"];
        assert_eq!(place.sara(&devices, &run).status.code(), Some(0));
    }
}
