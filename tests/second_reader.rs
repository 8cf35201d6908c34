//! What is written here, read by another reader of ONNX: a model whose weights lie in an external file, trained and exported.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use onnx_protobuf::{Message, ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use protobuf::EnumOrUnknown;
use sara::runtime::adapter::Adapter;
use sara::runtime::oracle::Oracle;
use std::path::{Path, PathBuf};
use std::process::Command;

const DATA: &str = "weights/model.data";

fn reference(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

fn model(path: &Path) -> ModelProto {
    ModelProto::parse_from_bytes(&std::fs::read(path).unwrap()).unwrap()
}

/// Moves the float initialisers into an external file, with odd gaps between them.
fn scatter(model: &mut ModelProto) -> Vec<u8> {
    let mut data = vec![7; 5];
    for tensor in model.graph.mut_or_insert_default().initializer.iter_mut() {
        if tensor.data_type != 1 || tensor.raw_data.len() < 64 {
            continue;
        }
        let entry = |key: &str, value: String| {
            let mut entry = StringStringEntryProto::new();
            (entry.key, entry.value) = (key.into(), value);
            entry
        };
        let bytes = std::mem::take(&mut tensor.raw_data);
        tensor.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
        tensor.external_data = vec![
            entry("location", DATA.into()),
            entry("offset", data.len().to_string()),
            entry("length", bytes.len().to_string()),
        ];
        data.extend(bytes);
        data.extend([9; 3]);
    }
    data
}

/// Elements of an external tensor.
fn elements(tensor: &TensorProto, data: &[u8]) -> Vec<f32> {
    let get =
        |key: &str| -> usize { tensor.external_data.iter().find(|e| e.key == key).unwrap().value.parse().unwrap() };
    let bytes = &data[get("offset")..][..get("length")];
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn sara(folder: &Path, args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_sara")).current_dir(folder).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_export_with_external_data_holds_the_tuned_values() {
    let folder = tempfile::tempdir().unwrap();
    let at = |file: &str| folder.path().join(file);
    let mut original = model(&reference("sd15_unet.ts.onnx"));
    let data = scatter(&mut original);
    std::fs::create_dir(at("weights")).unwrap();
    std::fs::write(at(DATA), &data).unwrap();
    std::fs::write(at("model.onnx"), original.write_to_bytes().unwrap()).unwrap();
    let batches = reference("trajectory/sd15_unet.ts.batches.safetensors").to_string_lossy().into_owned();
    sara(folder.path(), &["compile", "model.onnx", "-o", "model.plan", "--threshold", "5e-3"]);
    let train = ["train", "model.plan", "--batches", &batches, "--output-dir", "run", "--learning-rate", "1e-3"];
    sara(folder.path(), &train);
    sara(folder.path(), &["export", "run", "--output", "out/tuned.onnx"]);
    assert_eq!(std::fs::read(at("out/tuned.onnx")).unwrap(), std::fs::read(at("model.onnx")).unwrap());
    let tuned_data = std::fs::read(at("out").join(DATA)).unwrap();
    assert_eq!(tuned_data.len(), data.len());

    let adapter = Adapter::read(&at("run/adapter/adapter.safetensors")).unwrap();
    let mut expected = data.clone();
    let mut tuned = 0;
    let graph = model(&at("out/tuned.onnx")).graph.unwrap();
    for tensor in graph.initializer.iter().filter(|t| !t.external_data.is_empty()) {
        // A weight's path is that of the first node that uses it, and the operand it is there.
        let user = graph.node.iter().find_map(|n| Some((n, n.input.iter().position(|i| *i == tensor.name)?)));
        let Some((node, slot)) = user else { continue };
        let Some(delta) = adapter.deltas.get(&format!("{}:{slot}", node.name)) else { continue };
        let (before, after) = (elements(tensor, &data), elements(tensor, &tuned_data));
        let offset: usize = tensor.external_data[1].value.parse().unwrap();
        for (i, d) in delta.index.iter().zip(&delta.delta) {
            let i = *i as usize;
            assert!(before[i].abs() < 5e-3, "{} of {} is no small entry", before[i], tensor.name);
            assert_eq!(after[i], before[i] + d, "{}", tensor.name);
            expected[offset + 4 * i..][..4].copy_from_slice(&after[i].to_le_bytes());
            tuned += 1;
        }
    }
    assert!(tuned > 1000, "{tuned}");
    assert!(expected == tuned_data, "a byte outside the tuned values changed");
    Oracle::open_or_fetch().unwrap_or_else(|e| panic!("ONNX Runtime is needed for this test: {e}"));
    sara(folder.path(), &["verify", "out/tuned.onnx", "--no-nodes"]);
}
