//! Batches, selections, flags and configurations of a training.

use super::*;

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
