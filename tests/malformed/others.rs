//! Adapters, plans and configuration files.

use crate::Case;
use crate::common::bytes;
use crate::graphs::sum;
use sara_compiler::compile::{compile_forward, unobserved};
use sara_compiler::import::{Binding, Model};
use sara_runtime::adapter::Adapter;
use sara_runtime::plan::Plan;
use std::path::Path;
use std::process::Command;

/// A safetensors file with this header and data.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn adapter(name: &str, content: Vec<u8>) -> Case {
    Case::new(format!("adapter, {name}"), move |folder| {
        let path = folder.join("a.safetensors");
        std::fs::write(&path, &content).unwrap();
        Adapter::read(&path).err().map(|e| e.to_string())
    })
}

const META: &str = r#""__metadata__":{"format":"sara-adapter","version":"1","sha256:w":"00"}"#;

fn tensors(rest: &str, data: &[u8]) -> Vec<u8> {
    safetensors(&format!("{{{META},{rest}}}"), data)
}

fn plan(name: &str, change: fn(&mut Vec<u8>)) -> Case {
    Case::new(format!("plan, {name}"), move |folder| {
        let (model, path) = (folder.join("m.onnx"), folder.join("p.plan"));
        std::fs::write(&model, bytes(&sum())).unwrap();
        let model = Model::open(&model).unwrap();
        compile_forward(&model, &Binding::default(), &mut unobserved()).unwrap().save(&path).unwrap();
        let mut content = std::fs::read(&path).unwrap();
        change(&mut content);
        std::fs::write(&path, content).unwrap();
        Plan::load(&path).err().map(|e| e.to_string())
    })
}

fn config(name: &str, text: &'static str) -> Case {
    Case::new(format!("config, {name}"), move |folder| {
        let path = folder.join("train.toml");
        std::fs::write(&path, text).unwrap();
        refused_by_train(&path)
    })
}

fn refused_by_train(config: &Path) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_sara"))
        .args(["train", "gone.plan", "--batches", "gone.safetensors", "--output-dir", "run", "--config"])
        .arg(config)
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    // Without a fault in the configuration the plan is what is missing.
    (!output.status.success() && !message.contains("gone.plan")).then_some(message)
}

pub(crate) fn cases() -> Vec<Case> {
    let index = r#""w.index":{"dtype":"U32","shape":[2],"data_offsets":[0,8]}"#;
    let delta = r#""w.delta":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}"#;
    let both = format!("{index},{delta}");
    let data = |index: [u32; 2], delta: [f32; 2]| {
        let index = index.iter().flat_map(|v| v.to_le_bytes());
        index.chain(delta.iter().flat_map(|v| v.to_le_bytes())).collect::<Vec<u8>>()
    };
    let good = data([1, 2], [0.5, 0.5]);
    vec![
        adapter("nothing", vec![]),
        adapter("a header longer than the file", u64::MAX.to_le_bytes().to_vec()),
        adapter("a header of 4 GiB", [&(1u64 << 32).to_le_bytes()[..], b"{}"].concat()),
        adapter("a header that is no JSON", safetensors("{not json", &[])),
        adapter("a header that is a list", safetensors("[]", &[])),
        adapter("no metadata", safetensors("{}", &[])),
        adapter("another format", safetensors(r#"{"__metadata__":{"format":"pt"}}"#, &[])),
        adapter("another version", safetensors(r#"{"__metadata__":{"format":"sara-adapter","version":"9"}}"#, &[])),
        adapter("metadata that is no text", safetensors(r#"{"__metadata__":{"format":7}}"#, &[])),
        adapter("tensors that overlap", tensors(&both.replace("[8,16]", "[4,12]"), &good)),
        adapter(
            "a hole between tensors",
            tensors(&both.replace("[8,16]", "[12,20]"), &[good.clone(), vec![0; 4]].concat()),
        ),
        adapter("offsets that run backwards", tensors(&both.replace("[8,16]", "[16,8]"), &good)),
        adapter("data beyond the last tensor", tensors(&both, &[good.clone(), vec![0; 8]].concat())),
        adapter("data that is cut", tensors(&both, &good[..12])),
        adapter(
            "a shape that overflows",
            tensors(
                &both.replace(
                    "\"shape\":[2],\"data_offsets\":[8",
                    "\"shape\":[9223372036854775807,9],\"data_offsets\":[8",
                ),
                &good,
            ),
        ),
        adapter(
            "a shape of another size",
            tensors(&both.replace("\"shape\":[2],\"data_offsets\":[8", "\"shape\":[3],\"data_offsets\":[8"), &good),
        ),
        adapter("positions as floats", tensors(&both.replace("U32", "F32"), &good)),
        adapter("deltas as integers", tensors(&both.replace("\"F32\"", "\"I32\""), &good)),
        adapter("an unknown type", tensors(&both.replace("\"F32\"", "\"F7\""), &good)),
        adapter("positions that do not ascend", tensors(&both, &data([2, 1], [0.5, 0.5]))),
        adapter("a position twice", tensors(&both, &data([1, 1], [0.5, 0.5]))),
        adapter("a delta that is no number", tensors(&both, &data([1, 2], [f32::NAN, 0.5]))),
        adapter("an infinite delta", tensors(&both, &data([1, 2], [f32::INFINITY, 0.5]))),
        adapter("positions without deltas", tensors(index, &good[..8])),
        adapter("deltas without positions", tensors(&delta.replace("[8,16]", "[0,8]"), &good[8..])),
        adapter(
            "no hash of the base",
            safetensors(&format!("{{{},{both}}}", META.replace("sha256:w", "sha256:v")), &good),
        ),
        adapter("a tensor of another kind", tensors(&both.replace("w.delta", "w.alpha"), &good)),
        plan("nothing", |b| b.clear()),
        plan("its first bytes alone", |b| b.truncate(9)),
        plan("a cut version", |b| b.truncate(11)),
        plan("a cut hash", |b| b.truncate(30)),
        plan("a cut end", |b| b.truncate(b.len() - 1)),
        plan("one more byte", |b| b.push(0)),
        plan("a flipped bit of the hash", |b| b[20] ^= 1),
        plan("a flipped bit of the content", |b| b[60] ^= 4),
        plan("a flipped bit of the last byte", |b| *b.last_mut().unwrap() ^= 0x80),
        plan("another version", |b| b[9] = 99),
        plan("a version of today's, backwards", |b| b[9..13].reverse()),
        plan("another first byte", |b| b[0] = b'S'),
        config("no TOML", "learning_rate = = 1"),
        config("an unknown key", "learning_rat = 1e-3"),
        config("a text for a number", "learning_rate = \"fast\""),
        config("a negative count", "max_train_steps = -1"),
        config("a count that overflows", "max_train_steps = 99999999999999999999"),
        config("a key twice", "seed = 1\nseed = 2"),
        config("an unknown schedule", "lr_scheduler = \"sawtooth\""),
        config("a list for a number", "seed = [1]"),
        config("a text that never ends", "lr_scheduler = \"constant"),
        config("bytes of zero", "seed = 1\0"),
    ]
}
