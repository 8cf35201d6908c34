//! Models that are refused, and what is said of them.

use super::*;

#[test]
fn other_files_are_no_models() {
    let place = Place::new();
    place.write("text.onnx", "This is not a model.\n");
    place.write("picture.onnx", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89");
    place.write("empty.onnx", "");
    let whole = place.read("model.onnx");
    place.write("short.onnx", &whole[..whole.len() - 1000]);
    for file in ["text.onnx", "picture.onnx", "empty.onnx", "short.onnx"] {
        for args in [
            &["inspect", file][..],
            &["compile", file, "-o", "out"],
            &["run", file, "--inputs", CASE, "-o", "out"],
            &["gradients", file, "--inputs", CASE, "-o", "out"],
        ] {
            place.fails(1, args, &[file, "is not an ONNX model"]);
        }
    }
    place.fails(1, &["compile", "absent.onnx", "-o", "out"], &["absent.onnx", "No such file"]);
    place.fails(1, &["compile", ".", "-o", "out"], &["not a regular file", "give the path of an .onnx file"]);
    assert!(!place.path("out").exists());
}

#[test]
fn external_data_must_be_there() {
    let place = Place::new();
    let mut weight = Initialiser::new(F32, &[8, 8], &noise(1, 64)).proto("w");
    weight.raw_data.clear();
    weight.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
    let mut entry = StringStringEntryProto::new();
    (entry.key, entry.value) = ("location".to_owned(), "weights.bin".to_owned());
    weight.external_data.push(entry);
    let x = declare("x", F32, &[Dim::Fixed(2), Dim::Fixed(8)]);
    let product = node("MatMul", &["x", "w"], &["y"], &[]);
    place.write("outside.onnx", common::bytes(&model(17, graph(vec![product], vec![x], vec![weight], &["y"]))));
    let compile = ["compile", "outside.onnx", "-o", "out", "--threshold", "0.5"];
    place.fails(1, &compile, &["weights.bin", "tensor `w`", "put it beside", "outside.onnx"]);
    place.write("weights.bin", [0; 255]);
    place.fails(1, &compile, &["weights.bin", "is too short", "255"]);
    assert!(!place.path("out").exists());
    // The same model with all its data compiles, so that nothing else was refused; its data is not written over.
    place.write("weights.bin", [0; 256]);
    place.ok(&compile);
    place.fails(
        1,
        &["compile", "outside.onnx", "-o", "weights.bin", "--threshold", "0.5"],
        &["would overwrite", "weights.bin", "choose another path"],
    );
    assert_eq!(place.read("weights.bin"), [0; 256]);
    // It is missed too where it vanishes between compiling and training.
    std::fs::remove_file(place.path("weights.bin")).unwrap();
    let train = ["train", "out", "--batches", BATCHES, "--output-dir", "run"];
    place.fails(1, &[&train[..], &["--learning-rate", "1e-3"]].concat(), &["weights.bin", "No such file"]);
}

#[test]
fn unsupported_operators_are_all_listed() {
    let place = Place::new();
    let nodes = vec![
        node("NonMaxSuppression", &["x", "x"], &["a"], &[]),
        node("Unheard", &["x"], &["b"], &[]),
        node("Relu", &["x"], &["y"], &[]),
    ];
    let x = declare("x", F32, &[Dim::Fixed(2), Dim::Fixed(2)]);
    place.write("model.onnx", common::bytes(&model(13, graph(nodes, vec![x], vec![], &["a", "b", "y"]))));
    let words = ["model.onnx", "NonMaxSuppression_of_a", "Unheard_of_b"];
    for args in [
        &["inspect", "model.onnx"][..],
        &["compile", "model.onnx", "-o", "out"],
        &["run", "model.onnx", "--inputs", CASE, "-o", "out"],
    ] {
        let message = place.fails(3, args, &words);
        assert!(!message.contains("Relu"), "{message}");
    }
    assert!(!place.path("out").exists());
}

#[test]
fn inputs_must_be_those_of_the_model() {
    let place = Place::new();
    for command in ["run", "gradients"] {
        let refused = |words: &[&str], change: &dyn Fn(&mut Tensors)| {
            place.changed(CASE, "bad.safetensors", change);
            place.fails(1, &[command, "model.onnx", "--inputs", "bad.safetensors", "-o", "out"], words);
            assert!(!place.path("out").exists());
        };
        refused(&["`hidden_states` is missing", "timestep", "class_labels"], &|t| {
            let tensor = t.remove("hidden_states").unwrap();
            t.insert("hidden_state".to_owned(), tensor);
        });
        refused(&["`hidden_states` must have shape [2, 4, 16, 16], not [2, 4, 32, 8]"], &|t| {
            let values = t["hidden_states"].to_f32();
            t.insert("hidden_states".to_owned(), Tensor::f32(&[2, 4, 32, 8], values).unwrap());
        });
        refused(&["`timestep`", "must be i64", "f32 cannot be converted without loss"], &|t| {
            t.insert("timestep".to_owned(), Tensor::f32(&[2], vec![0.5, 1.5]).unwrap());
        });
        place.fails(
            1,
            &[command, "model.onnx", "--inputs", "model.onnx", "-o", "out"],
            &["model.onnx: is not a safetensors file"],
        );
        place.fails(1, &[command, "model.onnx", "--inputs", "absent", "-o", "out"], &["absent", "No such file"]);
    }
    place.changed(CASE, "bad.safetensors", |t| drop(t.remove("target")));
    let gradients = ["gradients", "model.onnx", "--inputs", "bad.safetensors", "-o", "out"];
    place.fails(1, &gradients, &["bad.safetensors", "`target` is missing"]);
}

#[test]
fn open_dimensions_must_be_bound() {
    let place = Place::new();
    place.copy("pipeline.unet.onnx", "model.onnx");
    let compile = |more: &[&'static str]| [&["compile", "model.onnx", "-o", "out"], more].concat();
    let words = ["model.onnx", "--dim NAME=SIZE", "height", "sequence_length", "width"];
    place.fails(1, &compile(&[]), &words);
    place.fails(1, &compile(&["--dim", "hight=8"]), &["model.onnx", "no dimension `hight`", "height"]);
    let bound = ["--dim", "height=8", "--dim", "width=8", "--dim", "sequence_length=5"];
    place.ok(&compile(&bound));
    // Inspecting needs no sizes.
    assert!(place.ok(&["inspect", "model.onnx"]).contains("dimensions batch_size, height, width, sequence_length"));
}
