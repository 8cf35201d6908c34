//! Text tests of the passes: every file under `tests/ir` is one test.
//!
//! A file names what to run (`; run: fuse`), and may name a type of half precision (`; mixed-precision: fp16`, else bf16), holds a graph, a rule of dashes, and the graph that is expected. `BLESS=1` rewrites
//! what is below the rule. The graphs above and below are also executed on the kernels with the same data and must agree. A file
//! with `; run: verify` must be refused with the rule it names in `; error: V03`.

#[path = "ir/agree.rs"]
mod agree;

use agree::{agree, every_third};
use libtest_mimic::{Arguments, Failed, Trial};
use sara_compiler::compile::{Precision, Residency};
use sara_compiler::ir::parse;
use sara_compiler::ir::verify::verify;
use sara_compiler::loss::Loss;
use sara_compiler::passes::{Context, PIPELINE, apply};
use std::path::{Path, PathBuf};

const RULE: &str = "; ----";

fn main() {
    let args = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ir");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let trials = files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
            Trial::test(name, move || run(&path).map_err(Failed::from))
        })
        .collect();
    libtest_mimic::run(&args, trials).exit();
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "ir") {
            files.push(path);
        }
    }
}

fn run(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let directive = |key: &str| text.lines().find_map(|l| l.strip_prefix(&format!("; {key}: ")).map(str::trim));
    let command = directive("run").ok_or("the file says nothing to run")?;
    let (input, expected) = text.split_once(RULE).map_or((text.as_str(), None), |(a, b)| (a, Some(b.trim_start())));
    let before = parse(input).map_err(|e| format!("input: {e}"))?;
    if command == "verify" {
        let rule = directive("error").ok_or("a verify test names its error")?;
        return match verify(&before, "test") {
            Ok(()) => Err(format!("nothing was found; {rule} should be broken")),
            Err(e) if e.to_string().starts_with(rule) => Ok(()),
            Err(e) => Err(format!("{rule} should be broken, but: {e}")),
        };
    }
    verify(&before, "the test's input").map_err(|e| e.to_string())?;
    let mut after = before.clone();
    let chosen = every_third(&after);
    let precision = match directive("mixed-precision") {
        None => Precision::Bf16,
        Some("fp16") => Precision::Fp16,
        Some(other) => return Err(format!("there is no precision `{other}`")),
    };
    for name in command.split_whitespace() {
        let pass = PIPELINE.iter().find(|p| p.name == name).ok_or(format!("there is no pass `{name}`"))?;
        apply(
            pass,
            &mut after,
            &Context {
                selection: &chosen,
                loss: Loss::default(),
                limit: None,
                weights: Residency::Streamed,
                precision,
                use_8bit_adam: false,
            },
        )
        .map_err(|e| e.to_string())?;
    }
    agree(&before, &after)?;
    let found = after.to_string();
    if std::env::var_os("BLESS").is_some() {
        let blessed = format!("{}{RULE}\n{found}", input);
        return std::fs::write(path, blessed).map_err(|e| e.to_string());
    }
    let expected = expected.ok_or("there is no expectation; run with BLESS=1")?;
    if found == expected { Ok(()) } else { Err(format!("expected:\n{expected}\nfound:\n{found}")) }
}
