//! The demo, cut short: every step of the story happens and every promised file is there.

use std::process::Command;

#[test]
fn the_story_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sara"))
        .current_dir(folder.path())
        .args(["demo", "--max-train-steps", "2"])
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    for words in ["peak", "bytes differ from the original's, all of them in weights that trained", "ONNX Runtime"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let read = |file: &str| std::fs::read(folder.path().join("sara-demo").join(file)).unwrap();
    assert!(read("samples.png").starts_with(b"\x89PNG"));
    assert!(read("loss.svg").starts_with(b"<svg"));
    let report: serde_json::Value = serde_json::from_slice(&read("report.json")).unwrap();
    assert_eq!(report["steps"], 2);
    assert!(report["export_difference"].as_f64().unwrap() < 2e-4);
    assert!(report["before"]["loss_old"].as_f64().unwrap() < 0.03, "the bundled model knows its digits: {report}");
    assert_ne!(read("tuned/unet.onnx"), read("base/unet.onnx"));
}
