//! Plans, runs, outputs and adapters on the disk.

use super::*;

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
