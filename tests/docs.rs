//! What the documents say of the command line is what it does.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use ndarray::Array3;
use sara::runtime::tensor::{Tensor, write_safetensors};
use sara_models::photo;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn help(command: &str) -> String {
    let args: &[&str] = if command.is_empty() { &["--help"] } else { &[command, "--help"] };
    let out = Command::new(env!("CARGO_BIN_EXE_sara")).args(args).env("COLUMNS", "120").output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `docs/commands.md` is what the commands say of themselves. `BLESS=1` writes it.
#[test]
fn the_reference_is_what_the_commands_say() {
    let all = help("");
    let list = all.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list
        .lines()
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next());
    let mut text = "# Commands\n\nGenerated from the program: `BLESS=1 cargo test --release --test docs`.\n".to_owned();
    for name in names.filter(|name| *name != "help") {
        text += &format!("\n## {name}\n\n```text\n{}\n```\n", help(name));
    }
    let path = root().join("docs/commands.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/commands.md is not what the commands say; run with BLESS=1");
    assert!(text.matches("\n## ").count() >= 14, "all commands are there");
}

/// The README's example from pictures to a tuned pipeline, at the size of the bundled one.
#[test]
fn the_example_of_the_readme_runs() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let example = readme.split("```\nsara cache").nth(1).unwrap().split("```").next().unwrap();
    let folder = place();
    let mut count = 0;
    for line in format!("sara cache{example}").lines() {
        let small = line.replace(" --resolution 512 --enable-bucket", " --resolution 32").replace("1000", "3");
        run(&small, folder.path());
        count += 1;
    }
    assert_eq!(count, 5);
    for file in ["samples/000.png", "run/report.html", "run/plots/loss.svg", "sd15-tuned/unet/model.onnx"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}

/// The README's example of a model alone.
#[test]
fn the_example_of_a_model_alone_runs() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let example = readme.split("```\nsara inspect").nth(1).unwrap().split("```").next().unwrap();
    let folder = place();
    std::fs::rename(folder.path().join("sd15/unet"), folder.path().join("unet")).unwrap();
    let numbers =
        |shape: &[usize]| Tensor::f32(shape, (0..shape.iter().product()).map(|i: usize| (i as f32).sin()).collect());
    let batches = [
        ("sample", numbers(&[2, 1, 4, 8, 8])),
        ("target", numbers(&[2, 1, 4, 8, 8])),
        ("encoder_hidden_states", numbers(&[2, 1, 77, 32])),
        ("timestep", Tensor::i64(&[2, 1], vec![10, 500])),
    ];
    let batches = batches.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.unwrap())).collect();
    write_safetensors(&folder.path().join("batches.safetensors"), &batches, None).unwrap();
    for line in format!("sara inspect{example}").lines() {
        run(&line.replace("=64", "=8"), folder.path());
    }
    assert!(folder.path().join("tuned/model.onnx").is_file());
}

/// The bundled pipeline as `sd15`, and pictures.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pictures", "dog"] {
        let pictures = folder.path().join(name);
        std::fs::create_dir(&pictures).unwrap();
        for i in 0..10 {
            let picture = Array3::from_shape_fn((3, 40, 40), |(c, y, x)| ((c + y * x + i) as f32 * 0.37).sin());
            std::fs::write(pictures.join(format!("{i}.png")), photo::png(picture.view()).unwrap()).unwrap();
            if name == "pictures" {
                std::fs::write(pictures.join(format!("{i}.txt")), "a photo of my dog").unwrap();
            }
        }
    }
    copy(&root().join("models/tiny/pipeline"), &folder.path().join("sd15"));
    folder
}

/// The examples of the how-tos, one after the other. What stands in TOML is the file that its first line names.
#[test]
fn the_examples_of_the_how_tos_run() {
    const SMALLER: [(&str, &str); 9] = [
        ("512", "32"),
        ("256", "16"),
        ("max_bucket_reso = 1024", "max_bucket_reso = 64\nbucket_reso_steps = 8"),
        ("1000", "4"),
        ("= 500", "= 2"),
        ("= 50\n", "= 1\n"),
        (" 800", " 3"),
        ("class-images 100", "class-images 2"),
        ("5M", "2k"),
    ];
    let text = std::fs::read_to_string(root().join("docs/how-to.md")).unwrap();
    let folder = place();
    run("sara cache sd15 --train-data-dir pictures --output cache --resolution 32", folder.path());
    let mut count = 0;
    for block in text.split("\n```").skip(1).step_by(2) {
        let block = SMALLER.iter().fold(format!("{block}\n"), |block, (large, small)| block.replace(large, small));
        if let Some(file) = block.strip_prefix("toml\n# ") {
            let (name, rest) = file.split_once('\n').unwrap();
            std::fs::write(folder.path().join(name), rest).unwrap();
            continue;
        }
        for line in block.lines().filter(|l| !l.is_empty()) {
            run(line, folder.path());
            count += 1;
        }
    }
    assert_eq!(count, text.lines().filter(|l| l.starts_with("sara ")).count());
    for file in ["class/class-00001.png", "run/report.html", "layers.svg", "sd15-merged/unet/model.onnx"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}

/// The example of the bundled shapes, from the repository's root but for where its pictures go.
#[test]
fn the_example_of_the_shapes_runs() {
    let readme = std::fs::read_to_string(root().join("models/shapes/README.md")).unwrap();
    let line = readme.lines().find(|l| l.starts_with("sara sample")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("models/shapes/pipeline"), &folder.path().join("models/shapes/pipeline"));
    run(line, folder.path());
    let bytes = std::fs::read(folder.path().join("shapes/003.png")).unwrap();
    assert!(bytes.starts_with(b"\x89PNG"));
}

/// Runs a line of an example in a folder.
fn run(line: &str, folder: &Path) {
    let mut words: Vec<String> = Vec::new();
    for (i, part) in line.split('"').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    assert_eq!(words.remove(0), "sara");
    let out = Command::new(env!("CARGO_BIN_EXE_sara")).args(&words).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
