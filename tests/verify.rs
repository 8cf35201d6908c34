//! `sara verify` on bundled models: it agrees where all is well, and says where it does not.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use sara_runtime::oracle::Oracle;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

fn reference(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file);
    path.to_str().unwrap().to_owned()
}

/// Runs `sara verify`, which must end with this exit code, and returns what it prints.
#[track_caller]
fn verify(code: i32, model: &str, more: &[&str]) -> (String, String) {
    if let Err(error) = Oracle::open_or_fetch() {
        panic!("ONNX Runtime is needed for this test: {error}");
    }
    let args = ["verify", &reference(model)];
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_sara")).args(args).args(more).output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert_eq!(status.code(), Some(code), "{model} {more:?}: {stdout}{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    (stdout, stderr)
}

const PIPELINE: [&str; 8] =
    ["--dim", "batch_size=2", "--dim", "height=8", "--dim", "width=8", "--dim", "sequence_length=5"];

#[test]
fn bundled_models_agree() {
    for (model, more, nodes) in [
        ("pipeline.unet.onnx", &PIPELINE[..], 800),
        ("sd3_mmdit.dynamo.onnx", &[], 100),
        ("ddpm_unet.ts.onnx", &[], 100),
    ] {
        let (printed, _) = verify(0, model, more);
        assert!(printed.lines().any(|l| l == "verified"), "{model}: {printed}");
        assert!(printed.contains("output out_sample: ") && !printed.contains("FAILED"), "{model}: {printed}");
        let compared = printed.lines().find_map(|l| l.trim().split_once(" nodes, each on")?.0.parse::<usize>().ok());
        assert!(compared.unwrap() > nodes, "{model}: {compared:?} nodes compared");
    }
}

#[test]
fn given_inputs_are_used() {
    let case = reference("dit.dynamo.case.safetensors");
    let compare = |more: &[&str]| {
        let args = [&["--json", "--no-nodes"], more].concat();
        let report: Value = serde_json::from_str(&verify(0, "dit.dynamo.onnx", &args).0).unwrap();
        assert_eq!((&report["verified"], &report["nodes"]), (&Value::Bool(true), &Value::Null));
        report["outputs"][0]["difference"].as_f64().unwrap()
    };
    assert!(compare(&["--inputs", &case]) != compare(&[]), "the inputs are the same as random ones");
    let (_, error) = verify(1, "dit.dynamo.onnx", &["--inputs", "absent.safetensors"]);
    assert!(error.contains("absent.safetensors"), "{error}");
}

#[test]
fn gradients_agree() {
    for (model, more) in [("pipeline.unet.onnx", &PIPELINE[..]), ("dit.dynamo.onnx", &[])] {
        let args = [&["--grad", "--no-nodes", "--directions", "3"], more].concat();
        let (printed, _) = verify(0, model, &args);
        assert!(printed.contains(" directions:") && printed.lines().any(|l| l == "verified"), "{model}: {printed}");
        let directions: Vec<&str> = printed.lines().filter(|l| l.contains("by differences")).collect();
        assert_eq!(directions.len(), 3, "{model}: {printed}");
        for line in directions {
            let derivative: f64 = line.split([' ', ',']).filter_map(|w| w.parse().ok()).next().unwrap();
            assert!(derivative > 0.0, "{model}: {line}");
        }
    }
}

#[test]
fn a_tolerance_of_nothing_names_nodes() {
    let (printed, error) = verify(4, "dit.ts.onnx", &["--tolerance", "0"]);
    assert!(error.contains("dit.ts.onnx: differs from ONNX Runtime by more than allowed"), "{error}");
    assert!(!printed.lines().any(|l| l == "verified"), "{printed}");
    let failed: Vec<&str> = printed.lines().filter_map(|l| l.trim().strip_prefix("FAILED ")).collect();
    // Transcendental functions differ in the last place; nodes that only move data never do.
    assert!(failed.iter().any(|l| l.contains("(Softmax): ")), "{printed}");
    assert!(failed.iter().all(|l| !l.contains("(Transpose)") && !l.contains("(Reshape)")), "{printed}");

    let (printed, _) = verify(4, "dit.ts.onnx", &["--tolerance", "0", "--json"]);
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["verified"], false);
    let named: Vec<&str> = report["nodes"]["failed"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert_eq!(named, failed);
}
