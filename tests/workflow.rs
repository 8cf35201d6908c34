//! From a pipeline's folder and a folder of pictures to tuned pictures, through the command line.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use ndarray::Array3;
use sara::runtime::tensor::{Tensors, read_safetensors};
use sara_models::photo;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BUCKETS: [&str; 9] = [
    "--resolution",
    "32",
    "--enable-bucket",
    "--min-bucket-reso",
    "16",
    "--max-bucket-reso",
    "64",
    "--bucket-reso-steps",
    "8",
];

/// A folder with pictures: circles, half of them red and half of them blue, in three aspect ratios.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("pictures")).unwrap();
        for i in 0..12usize {
            let (height, width) = [(64, 64), (96, 64), (64, 96)][i % 3];
            let inside = |y: usize, x: usize| {
                let (dy, dx) = (y as f32 / height as f32 - 0.5, x as f32 / width as f32 - 0.5);
                dy * dy + dx * dx < 0.1
            };
            let red = i % 2 == 0;
            let picture = Array3::from_shape_fn((3, height, width), |(c, y, x)| match (inside(y, x), c) {
                (true, 0) if red => 1.0,
                (true, 2) if !red => 1.0,
                (true, _) => -1.0,
                (false, _) => 0.8 - 0.02 * i as f32,
            });
            std::fs::write(place.path(&format!("pictures/{i:02}.png")), photo::png(picture.view()).unwrap()).unwrap();
            let caption = if red { "a photo of the red cat" } else { "a photo of the blue dog" };
            std::fs::write(place.path(&format!("pictures/{i:02}.txt")), caption).unwrap();
        }
        place
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sara")).args(args).current_dir(self.folder.path()).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn fails(&self, code: i32, args: &[&str], parts: &[&str]) {
        let out = self.run(args);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{args:?} does not say `{part}`: {text}");
        }
    }

    fn cache(&self, more: &[&str]) -> Value {
        let pipeline = pipeline();
        let args = ["cache", &pipeline, "--train-data-dir", "pictures", "--output", "cache", "--json"];
        serde_json::from_str(&self.ok(&[&args[..], &BUCKETS, more].concat())).unwrap()
    }

    fn tensors(&self, file: &str) -> Tensors {
        read_safetensors(&self.path(file)).unwrap().0
    }
}

fn pipeline() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/pipeline").to_str().unwrap().to_owned()
}

fn compiled(place: &Place) {
    place.cache(&[]);
    let args = ["compile", &pipeline(), "--cache", "cache", "--output", "plan", "--threshold", "3e-2"];
    place.ok(&[&args[..], &["--train-batch-size", "2"]].concat());
}

const TRAIN: [&str; 9] =
    ["train", "plan", "--cache", "cache", "--learning-rate", "2e-3", "--lr-scheduler", "constant", "--output-dir"];

#[test]
fn pictures_become_a_tuned_pipeline() {
    let place = Place::new();
    compiled(&place);
    let watched =
        ["--validation-split", "0.2", "--validation-steps", "20", "--validation-prompt", "a photo of the red cat"];
    let more = [
        "run",
        "--max-train-steps",
        "60",
        "--snr-gamma",
        "5",
        "--noise-offset",
        "0.02",
        "--caption-dropout-rate",
        "0.1",
    ];
    place.ok(&[&TRAIN[..], &more, &watched].concat());
    let log = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let measured: Vec<f64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["validation_loss"].as_f64())
        .collect();
    assert_eq!(measured.len(), 3);
    assert!(measured[2] < measured[0], "the loss on held-out pictures falls: {measured:?}");
    for step in ["000000", "000020", "000040", "000060"] {
        assert!(place.path(&format!("run/samples/step-{step}-0-0.png")).is_file());
    }

    let page = std::fs::read_to_string(place.path("run/report.html")).unwrap();
    for part in [
        "loss on held-out pictures",
        "norm of the gradient",
        "memory taken at most",
        "Before and after",
        "|w| in percent",
        "base64,",
        "snr_gamma = &quot;5&quot;",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    place.ok(&["export", "run", "--pytorch", "deltas.safetensors"]);
    let (deltas, adapter) = (place.tensors("deltas.safetensors"), place.tensors("run/adapter/adapter.safetensors"));
    let sum = |tensors: &Tensors| {
        let own = tensors.iter().filter(|(name, _)| name.ends_with(".delta"));
        own.flat_map(|(_, t)| t.to_f64()).map(|d| d * d).sum::<f64>()
    };
    assert!((sum(&deltas) - sum(&adapter)).abs() < 1e-9 * sum(&adapter), "all differences are there");
    assert!(deltas.contains_key("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight.index"));
    place.ok(&["inspect", &pipeline(), "--plot", "layers.svg"]);
    assert!(std::fs::read_to_string(place.path("layers.svg")).unwrap().contains("conv_in/Conv"));
    place.ok(&["export", "run", "--output", "tuned"]);
    place.ok(&["merge", &pipeline(), "--adapter", "run/adapter/adapter.safetensors", "--output", "merged"]);
    let read = |file: &str| std::fs::read(place.path(file)).unwrap();
    assert_eq!(read("tuned/unet/model.onnx"), read("merged/unet/model.onnx"));
    let base = std::fs::read(Path::new(&pipeline()).join("unet/model.onnx")).unwrap();
    assert_eq!(read("tuned/unet/model.onnx").len(), base.len());
    for file in ["model_index.json", "text_encoder/model.onnx", "tokenizer/merges.txt", "vae_decoder/model.onnx"] {
        assert_eq!(read(&format!("tuned/{file}")), std::fs::read(Path::new(&pipeline()).join(file)).unwrap());
    }

    let sample = |pipeline: &str, to: &str, more: &[&str]| {
        let args =
            ["sample", pipeline, "--prompt", "a photo of the red cat", "--num-inference-steps", "4", "--output", to];
        let tensors = format!("{to}.safetensors");
        place.ok(&[&args[..], &["--save-tensors", &tensors], more].concat());
        place.tensors(&tensors)["images"].to_f32()
    };
    let before = sample(&pipeline(), "before", &[]);
    let after = sample("tuned", "after", &[]);
    let adapter = "run/adapter/adapter.safetensors";
    assert_eq!(after, sample(&pipeline(), "with", &["--adapter", adapter]), "an adapter is the tuned model");
    assert_ne!(before, after);
    let halves = [format!("{adapter}:0.5"), format!("{adapter}:0.5")];
    let mixed = sample(&pipeline(), "mixed", &["--adapter", &halves[0], "--adapter", &halves[1]]);
    let worst = mixed.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "two halves are the whole: {worst}");
    let zeroed = sample(&pipeline(), "zeroed", &["--zero-smallest", "20%"]);
    assert_ne!(before, zeroed);
    assert_eq!(zeroed, sample(&pipeline(), "again", &["--zero-smallest", "0.2"]));
    let taken = [format!("{adapter}:1"), format!("{adapter}:-1")];
    assert_eq!(before, sample(&pipeline(), "taken", &["--adapter", &taken[0], "--adapter", &taken[1]]));
}

#[test]
fn the_sampler_is_the_pipelines_and_earlier_pictures_stay() {
    let place = Place::new();
    copy(Path::new(&pipeline()), &place.path("own"));
    let config = place.path("own/scheduler/scheduler_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut own: Value = serde_json::from_str(&text).unwrap();
    let draw = |seed: &str| {
        let args =
            ["sample", "own", "--prompt", "x", "--num-inference-steps", "3", "--seed", seed, "--output", "drawn"];
        let out = place.run(&args);
        assert!(out.status.success() && !String::from_utf8_lossy(&out.stderr).contains("samplers"));
        std::fs::read(place.path(String::from_utf8_lossy(&out.stdout).trim())).unwrap()
    };
    let mut drawn = Vec::new();
    for class in ["EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LCM"] {
        own["_class_name"] = format!("{class}Scheduler").into();
        std::fs::write(&config, own.to_string()).unwrap();
        drawn.extend([draw("1"), draw("1")]);
    }
    drawn.push(draw("2"));
    for (i, picture) in drawn.iter().enumerate() {
        assert!(*picture == std::fs::read(place.path(&format!("drawn/{i:03}.png"))).unwrap(), "{i} was overwritten");
        let same = drawn.iter().enumerate().filter(|(_, other)| *other == picture).map(|(j, _)| j / 2);
        assert!(same.eq(std::iter::repeat_n(i / 2, if i < 8 { 2 } else { 1 })), "{i}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_cache_is_made_once_and_sees_what_changes() {
    let place = Place::new();
    let first = place.cache(&[]);
    assert_eq!((&first["pictures"], &first["encoded"], &first["embedded"]), (&12.into(), &12.into(), &3.into()));
    let again = place.cache(&[]);
    assert_eq!((&again["encoded"], &again["embedded"], &again["deleted"]), (&0.into(), &0.into(), &0.into()));
    std::fs::copy(place.path("pictures/00.png"), place.path("pictures/03.png")).unwrap();
    std::fs::write(place.path("pictures/04.txt"), "style of the red dog").unwrap();
    let edited = place.cache(&[]);
    // A copy of another picture is encoded already.
    assert_eq!((&edited["encoded"], &edited["embedded"], &edited["deleted"]), (&0.into(), &1.into(), &1.into()));
    let flipped = place.cache(&["--random-flip"]);
    assert_eq!((&flipped["pictures"], &flipped["encoded"]), (&24.into(), &11.into()));
}

#[test]
fn everything_that_is_wrong_with_a_dataset_is_told_at_once() {
    let place = Place::new();
    let whole = std::fs::read(place.path("pictures/05.png")).unwrap();
    std::fs::write(place.path("pictures/05.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(place.path("pictures/06.png"), "").unwrap();
    let pipeline = pipeline();
    let cache = ["cache", &pipeline, "--train-data-dir", "pictures", "--output", "cache"];
    place.fails(1, &[&cache[..], &BUCKETS].concat(), &["2 of 12 pictures cannot be read", "05.png", "06.png"]);
    assert!(!place.path("cache/cache.json").exists());
    std::fs::remove_file(place.path("pictures/07.txt")).unwrap();
    std::fs::remove_file(place.path("pictures/08.txt")).unwrap();
    place.fails(1, &cache, &["2 of", "have no caption", "07.png", "08.png", "--instance-prompt"]);
    place.fails(1, &["cache", &pipeline, "--train-data-dir", "nowhere", "--output", "cache"], &["nowhere"]);
    place.fails(2, &["cache", &pipeline, "--output", "cache"], &["--train-data-dir"]);
    place.fails(1, &["cache", "pictures", "--train-data-dir", "pictures", "--output", "cache"], &["model_index.json"]);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let place = Place::new();
    compiled(&place);
    let pipeline = pipeline();
    place.ok(&["compile", &pipeline, "--resolution", "32", "--output", "square.plan"]);
    let square = ["train", "square.plan", "--cache", "cache", "--learning-rate", "1e-3", "--output-dir", "run"];
    place.fails(1, &square, &["no program for pictures of", "compile it with --cache"]);
    place.fails(1, &[&TRAIN[..], &["run", "--weighting-scheme", "mode"]].concat(), &["for models of flow"]);
    place.fails(1, &[&TRAIN[..], &["run", "--validation-split", "1.5"]].concat(), &["--validation-split"]);
    let many =
        ["run", "--max-train-steps", "2", "--validation-prompt", "x", "--num-validation-images", "1000000000000"];
    place.fails(1, &[&TRAIN[..], &many].concat(), &["run: up to", "GiB will be written, and the disk has"]);
    place.fails(1, &["sample", &pipeline, "--prompt", "x", "--scheduler", "heum"], &["heum", "heun"]);
    place.fails(1, &["sample", &pipeline, "--prompt", "x", "--scheduler", "flow_euler"], &["flow_euler"]);
    place.fails(2, &["sample", &pipeline, "--prompt", "x", "--height", "33"], &["multiple of 2"]);
    place.fails(1, &["sample", &pipeline, "--prompt", "x", "--num-inference-steps", "0"], &["0 sampling steps"]);
    place.ok(&[&TRAIN[..], &["run", "--max-train-steps", "2"]].concat());
    let resumed = ["run", "--max-train-steps", "4", "--resume-from-checkpoint", "latest"];
    place.fails(1, &[&TRAIN[..], &resumed, &["--noise-offset", "0.1"]].concat(), &["noise_offset"]);
    place.ok(&[&TRAIN[..], &resumed].concat());
    place.fails(1, &["export", "run", "--output", "cache"], &["cache: exists"]);
}

#[test]
fn a_run_over_pictures_resumes_to_the_byte() {
    let place = Place::new();
    std::fs::create_dir(place.path("class")).unwrap();
    for i in 0..3 {
        std::fs::copy(place.path(&format!("pictures/{i:02}.png")), place.path(&format!("class/{i}.png"))).unwrap();
    }
    place.cache(&["--class-data-dir", "class", "--class-prompt", "a cat", "--random-flip"]);
    let args = ["compile", &pipeline(), "--cache", "cache", "--output", "plan", "--threshold", "3e-2"];
    place.ok(&[&args[..], &["--train-batch-size", "2", "--loss-type", "huber"]].concat());
    let train = |run: &str, steps: &str, more: &[&str]| {
        let seen =
            ["--caption-dropout-rate", "0.3", "--prior-loss-weight", "0.5", "--input-perturbation", "0.1", "--use-ema"];
        let step = ["--gradient-accumulation-steps", "2", "--progressive-iter", "3", "--validation-split", "0.1"];
        let out = place.run(&[&TRAIN[..], &[run, "--max-train-steps", steps], &seen, &step, more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stderr).unwrap()
    };
    let told = train("unbroken", "8", &[]);
    // Ten of twelve pictures and their mirror images, as many of the class, and two that are held out with theirs.
    assert!(told.contains("40 pictures an epoch in") && told.contains("4 held out"), "{told}");
    train("broken", "3", &[]);
    train("broken", "8", &["--resume-from-checkpoint", "latest"]);
    let read = |run: &str, file: &str| std::fs::read(place.path(&format!("{run}/{file}"))).unwrap();
    for file in ["adapter/adapter.safetensors", "checkpoint-000008/state.safetensors"] {
        assert!(read("unbroken", file) == read("broken", file), "{file} differs");
    }
    // Another seed sees other noise in another order.
    train("seeded", "8", &["--seed", "7"]);
    assert!(read("unbroken", "adapter/adapter.safetensors") != read("seeded", "adapter/adapter.safetensors"));
}

/// Pictures of the class that are missing are drawn, those that are there stay, and drawing them again gives the same.
#[test]
fn pictures_of_the_class_are_drawn() {
    let place = Place::new();
    let asked = ["--class-data-dir", "class", "--class-prompt", "a cat", "--num-class-images", "3"];
    place.cache(&asked);
    let read = |i: u64| std::fs::read(place.path(&format!("class/class-{i:05}.png"))).unwrap();
    let first: Vec<Vec<u8>> = (0..3).map(read).collect();
    assert!(first[0] != first[1] && first[1] != first[2]);
    std::fs::remove_file(place.path("class/class-00001.png")).unwrap();
    std::fs::write(place.path("class/class-00002.png"), &first[0]).unwrap();
    place.cache(&asked);
    assert_eq!([read(1), read(2)], [first[1].clone(), first[0].clone()]);
    assert_eq!(std::fs::read_dir(place.path("class")).unwrap().count(), 3);
    let out = place.run(&["cache", "pipeline", "--train-data-dir", "pictures", "-o", "c", "--num-class-images", "3"]);
    assert_eq!(out.status.code(), Some(2));
}
