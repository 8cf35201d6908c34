//! Exports of many families of models by both exporters of PyTorch, against what PyTorch computed: each file of `tests/families`
//! is a trial, be it a `.onnx` with its tensors beside it or a `.zip` of these. `FAMILIES=DIR` tests the files of another folder.
//!
//! `docs/families.md` holds what was seen, rounded up. `BLESS=1 cargo test --release --test families` writes it; otherwise what is
//! seen must lie within it.

mod common;

use common::pytorch::{Export, inputs};
use libtest_mimic::{Arguments, Failed, Trial};
use sara::compiler::compile::{compile_gradients, unobserved};
use sara::compiler::select;
use sara::runtime::oracle::Oracle;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const HEAD: &str = "# Families of models

Tiny, randomly initialised models, exported by the TorchScript exporter (`ts`) and by `torch.export` (`dynamo`), against PyTorch:
the output (difference relative to its largest element), the gradient of each weight (relative to its norm), and every node
alone against ONNX Runtime (within 1e-4 of its largest element, 2e-3 in half precision; `-` where ONNX Runtime has no
kernels for the model). Differences are bounds, rounded up to a power of ten.
Written by `BLESS=1 cargo test --release --test families`; how the models are made is in `models/exports`.

| model | exporter | opset | output | gradients | nodes verified | matrices that train |
|---|---|---|---|---|---|---|
";

/// What was seen of one export.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    opset: i64,
    forward: f64,
    gradient: Option<f64>,
    nodes: Option<u64>,
    matrices: usize,
}

type Rows = Arc<Mutex<BTreeMap<String, Row>>>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn check(export: &Export) -> Result<Row, String> {
    let forward = export.forward()?;
    let gradient = match export.path("grads.safetensors").exists() {
        true => Some(export.gradients()?.1),
        false => None,
    };
    let case = export.tensors("case.safetensors")?;
    let model = export.model()?;
    let (_, binding) = inputs(&case);
    let matrices = compile_gradients(&model, &binding, &select::Options::default(), &mut unobserved());
    let matrices = match gradient {
        Some(_) => matrices.map_err(|e| e.to_string())?.programs[0].outputs.len() - 1,
        None => 0,
    };
    Ok(Row { opset: model.opset(), forward, gradient, nodes: nodes(export)?, matrices })
}

/// The files of an export, which an archive holds or which lie in the folder as they are.
fn open(folder: &Path, name: &str) -> Result<(Export, Option<TempDir>), String> {
    let archive = folder.join(format!("{name}.zip"));
    if !archive.exists() {
        return Ok((Export { base: folder.join(name) }, None));
    }
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", archive.display());
    let scratch = tempfile::tempdir().map_err(|e| failed(&e))?;
    let file = std::fs::File::open(&archive).map_err(|e| failed(&e))?;
    zip::ZipArchive::new(file).and_then(|mut a| a.extract(scratch.path())).map_err(|e| failed(&e))?;
    Ok((Export { base: scratch.path().join(name) }, Some(scratch)))
}

/// Number of nodes that agree with ONNX Runtime; none if it has no kernels for the model.
fn nodes(export: &Export) -> Result<Option<u64>, String> {
    // What ONNX Runtime computes in half precision it rounds at some nodes and at some not.
    let half = ["fp16", "bf16"].iter().any(|h| export.base.to_string_lossy().contains(h));
    let tolerance = if half { "2e-3" } else { "1e-4" };
    let found = Command::new(env!("CARGO_BIN_EXE_sara"))
        .args(["verify", "--json", "--tolerance", tolerance, "--threads", "1", "--inputs"])
        .args([export.path("case.safetensors"), export.path("onnx")])
        .output()
        .map_err(|e| e.to_string())?;
    let said = || String::from_utf8_lossy(&found.stderr).into_owned();
    if said().contains("ONNX Runtime cannot open") {
        return Ok(None);
    }
    let report: serde_json::Value = serde_json::from_slice(&found.stdout).map_err(|_| said())?;
    let failed = report["nodes"]["failed"].as_array().ok_or_else(said)?;
    if !failed.is_empty() {
        return Err(format!("nodes differ from ONNX Runtime: {failed:?}"));
    }
    report["nodes"]["compared"].as_u64().map(Some).ok_or_else(said)
}

/// The smallest power of ten, of those from 1e-5 on, that is twice a difference or more.
fn bound(difference: f64) -> f64 {
    [1e-5, 1e-4, 1e-3, 1e-2].into_iter().find(|b| 2.0 * difference <= *b).unwrap_or(f64::INFINITY)
}

fn line(name: &str, row: &Row) -> String {
    let (model, exporter) = name.rsplit_once('.').unwrap_or((name, ""));
    let number = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{:.0e}", bound(v)));
    let (forward, gradient) = (number(Some(row.forward)), number(row.gradient));
    let nodes = row.nodes.map_or("-".to_owned(), |n| n.to_string());
    format!("| {model} | {exporter} | {} | {forward} | {gradient} | {nodes} | {} |\n", row.opset, row.matrices)
}

/// Whether a line of the table allows what was seen: no difference is larger, and all else is equal.
fn allows(line: &str, seen: &str) -> bool {
    let cells = |l: &str| -> Vec<String> { l.split('|').map(|c| c.trim().to_owned()).collect() };
    let (line, seen) = (cells(line), cells(seen));
    line.len() == seen.len()
        && line.iter().zip(&seen).enumerate().all(|(i, (a, b))| match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(allowed), Ok(found)) if i == 4 || i == 5 => found <= allowed,
            _ => a == b,
        })
}

fn table(rows: &BTreeMap<String, Row>) -> Result<(), String> {
    let path = root().join("docs/families.md");
    let seen: Vec<String> = rows.iter().map(|(name, row)| line(name, row)).collect();
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(root().join("docs")).map_err(|e| e.to_string())?;
        return std::fs::write(&path, format!("{HEAD}{}", seen.concat())).map_err(|e| e.to_string());
    }
    let told = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let told: Vec<&str> =
        told.strip_prefix(HEAD).ok_or("the head of docs/families.md is another one")?.lines().collect();
    for (told, seen) in told.iter().zip(&seen) {
        if !allows(told, seen) {
            return Err(format!("docs/families.md says\n{told}\nbut seen was\n{seen}"));
        }
    }
    if told.len() == seen.len() {
        Ok(())
    } else {
        Err(format!("docs/families.md has {} lines, seen were {}", told.len(), seen.len()))
    }
}

/// The name of the export that a file of the folder stands for.
fn stem(file: &str) -> Option<&str> {
    file.strip_suffix(".onnx").or(file.strip_suffix(".zip"))
}

fn main() {
    let args = Arguments::from_args();
    if let Err(error) = Oracle::open_or_fetch() {
        panic!("ONNX Runtime is needed for this test: {error}");
    }
    let given = std::env::var_os("FAMILIES").map(PathBuf::from);
    let folder = given.clone().unwrap_or_else(|| root().join("tests/families"));
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> =
        entries.flatten().filter_map(|e| stem(e.file_name().to_str()?).map(str::to_owned)).collect();
    names.sort_unstable();
    assert!(!names.is_empty(), "{}: no models", folder.display());
    let rows = Rows::default();
    let trials = names
        .iter()
        .map(|name| {
            let (folder, rows, name) = (folder.clone(), rows.clone(), name.clone());
            Trial::test(name.clone(), move || {
                let (export, _scratch) = open(&folder, &name)?;
                let row = check(&export).map_err(Failed::from)?;
                rows.lock().map_err(|e| e.to_string())?.insert(name, row);
                Ok(())
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&args, trials);
    let rows = rows.lock().unwrap_or_else(|e| panic!("{e}"));
    if given.is_none()
        && rows.len() == names.len()
        && let Err(reason) = table(&rows)
    {
        eprintln!("{reason}\nBLESS=1 writes the table anew");
        std::process::exit(1);
    }
    conclusion.exit();
}
