//! ONNX's own node tests: each case passes or is refused with the reason that `onnx/expected.txt` gives, and any drift in either
//! direction fails. `BLESS=1` rewrites that file.
//!
//! A case runs with its operands as inputs and with all of them as initialisers, each time as imported and after the passes before
//! training. What decides shapes must be known when a plan is made: a case that passes as initialisers only is a `pass, constant`.
//! The outputs in the cases are the oracle.

mod common;

#[path = "onnx/case.rs"]
mod case;
#[path = "onnx/gradient.rs"]
mod gradient;
#[path = "onnx/outcome.rs"]
mod outcome;

use case::Case;
use gradient::Slope;
use libtest_mimic::{Arguments, Failed, Trial};
use outcome::Outcome;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Cases in ONNX 1.23.2.
const CASES: usize = 1884;

/// Fewest cases that must pass.
const PASS: usize = 900;

type Outcomes = Arc<Mutex<BTreeMap<String, Outcome>>>;

/// Lines `NAME: OUTCOME`.
fn expectations(path: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|l| l.split_once(": "));
    lines.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect()
}

fn run(case: &Case, expected: Option<&String>, bless: bool, outcomes: &Outcomes) -> Result<(), Failed> {
    let outcome = outcome::of(case);
    let text = outcome.to_string();
    let broken = outcome.is_broken();
    outcomes.lock().expect("no test panics with the lock").insert(case.name.clone(), outcome);
    match expected {
        _ if broken => Err(text.into()),
        _ if bless => Ok(()),
        Some(expected) if *expected == text => Ok(()),
        Some(expected) => Err(format!("expected: {expected}\nfound:    {text}").into()),
        None => Err(format!("not in the expectations: {text}").into()),
    }
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    let args = Arguments::from_args();
    let bless = std::env::var_os("BLESS").is_some();
    let list = folder.join("expected.txt");
    let expected = Arc::new(expectations(&list));
    let cases = case::read(&folder.join("cases.zip"));
    let control = cases.clone();
    let outcomes = Outcomes::default();
    let mut trials = Vec::new();
    let names: Vec<String> = cases.iter().map(|c| c.name.clone()).collect();
    for case in cases {
        let (expected, outcomes) = (expected.clone(), outcomes.clone());
        trials.push(Trial::test(case.name.clone(), move || run(&case, expected.get(&case.name), bless, &outcomes)));
    }
    trials.push(Trial::test("all cases are there", move || {
        let unknown: Vec<&String> = expected.keys().filter(|k| !names.contains(k)).collect();
        match names.len() {
            CASES if unknown.is_empty() || bless => Ok(()),
            found => Err(format!("{found} cases instead of {CASES}; expected but not there: {unknown:?}").into()),
        }
    }));
    trials.push(Trial::test("a wrong gradient is found", move || gradient::negative_control(&control)));
    let conclusion = libtest_mimic::run(&args, trials);
    let outcomes = outcomes.lock().expect("all tests are over");
    let count = |kind: fn(&Outcome) -> bool| outcomes.values().filter(|o| kind(o)).count();
    let pass = count(|o| matches!(o, Outcome::Pass(_) | Outcome::Constant(_)));
    let checked = count(|o| matches!(o, Outcome::Pass(Slope::Right) | Outcome::Constant(Slope::Right)));
    println!("gradients checked in {checked} cases");
    println!(
        "pass {pass} (of these {} with constant operands only), refused {}, WRONG {}, panic {}",
        count(|o| matches!(o, Outcome::Constant(_))),
        count(|o| matches!(o, Outcome::Refused(_))),
        count(|o| matches!(o, Outcome::Wrong(_))),
        count(|o| matches!(o, Outcome::Panic(_))),
    );
    if outcomes.len() == CASES {
        if bless {
            let lines: Vec<String> = outcomes.iter().map(|(name, o)| format!("{name}: {o}\n")).collect();
            std::fs::write(&list, lines.concat()).expect("the expectations can be written");
        }
        assert!(pass >= PASS, "fewer than {PASS} cases pass");
    }
    conclusion.exit();
}
