//! What the documents say of the command line is what it does.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use ndarray::Array3;
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
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for i in 0..10 {
        let picture = Array3::from_shape_fn((3, 40, 40), |(c, y, x)| ((c + y * x + i) as f32 * 0.37).sin());
        std::fs::write(pictures.join(format!("{i}.png")), photo::png(picture.view()).unwrap()).unwrap();
        std::fs::write(pictures.join(format!("{i}.txt")), "a photo of my dog").unwrap();
    }
    copy(&root().join("models/tiny/pipeline"), &folder.path().join("sd15"));
    let mut count = 0;
    for line in format!("sara cache{example}").lines() {
        let small = line.replace(" --resolution 512 --enable-bucket", " --resolution 32").replace("1000", "3");
        let mut words: Vec<String> = Vec::new();
        for (i, part) in small.split('"').enumerate() {
            match i % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        assert_eq!(words.remove(0), "sara");
        let out = Command::new(env!("CARGO_BIN_EXE_sara")).args(&words).current_dir(folder.path()).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        count += 1;
    }
    assert_eq!(count, 5);
    for file in ["samples/000.png", "run/report.html", "run/plots/loss.svg", "sd15-tuned/unet/model.onnx"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
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
