//! What the compiler of the language cannot be told about these sources.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use std::path::{Path, PathBuf};

// `forbid(unsafe_code)` cannot say it: ndarray's slicing macro carries an `allow`, and the executor's crate needs an exception.

/// The files outside `kernels/` that may hold `unsafe`: the map of a file, the memory that an executor lends to kernels, and the
/// libraries of a CUDA device.
const UNSAFE: [&str; 7] = [
    "runtime/src/block.rs",
    "runtime/src/device/cuda.rs",
    "runtime/src/device/driver.rs",
    "runtime/src/device/nvrtc.rs",
    "runtime/src/executor/mod.rs",
    "runtime/src/interpret.rs",
    "runtime/src/map.rs",
];

/// The Rust files under `folder`, without build outputs.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The files of `sources` that use the word `unsafe`, in code or in an attribute that allows it.
fn with_unsafe(root: &Path, folders: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let word = regex::Regex::new(r"\bunsafe(_code)?\b").unwrap();
    let code = |line: &str| line.split("//").next().is_some_and(|code| word.is_match(code));
    let uses = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap().replace("forbid(unsafe_code)", "");
        text.lines().any(code)
    };
    let mut named: Vec<_> = files
        .iter()
        .filter(|path| uses(path))
        .map(|path| path.strip_prefix(root).unwrap().display().to_string())
        .collect();
    named.sort();
    named
}

#[test]
fn unsafe_code_stays_in_the_map_the_executor_the_device_and_the_kernels() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(with_unsafe(root, &["src", "compiler", "runtime", "models", "fuzz"]), UNSAFE);
}

#[test]
fn a_file_with_unsafe_code_is_seen() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(with_unsafe(root, &["kernels"]).contains(&"kernels/src/launch.rs".to_owned()));
}
