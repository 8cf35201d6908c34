//! Tests that need a library. Where none is found they fetch it.

use std::fs;
use std::path::Path;

use super::expose::{expose, node_outputs, put_field, put_varint};
use super::{Array, Optimization, Oracle, OracleError, OracleType, Session, SessionOptions};

fn oracle() -> Oracle {
    Oracle::open_or_fetch().unwrap_or_else(|e| panic!("these tests need ONNX Runtime: {e}"))
}

/// An encoded protobuf message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn int(mut self, number: u64, value: u64) -> Message {
        put_varint(&mut self.0, number << 3);
        put_varint(&mut self.0, value);
        self
    }

    fn text(mut self, number: u64, value: &str) -> Message {
        put_field(&mut self.0, number, value.as_bytes());
        self
    }

    fn message(mut self, number: u64, value: Message) -> Message {
        put_field(&mut self.0, number, &value.0);
        self
    }
}

enum Dim {
    Fixed(u64),
    Free(&'static str),
}

/// A `ValueInfoProto`.
fn value(name: &str, dtype: OracleType, shape: &[Dim]) -> Message {
    let shape = shape.iter().fold(Message::default(), |m, dim| {
        m.message(
            1,
            match dim {
                Dim::Fixed(n) => Message::default().int(1, *n),
                Dim::Free(name) => Message::default().text(2, name),
            },
        )
    });
    let tensor = Message::default().int(1, dtype.onnx() as u64).message(2, shape);
    Message::default().text(1, name).message(2, Message::default().message(1, tensor))
}

/// A `NodeProto`.
fn node(op: &str, inputs: &[&str], output: &str) -> Message {
    inputs.iter().fold(Message::default(), |m, name| m.text(1, name)).text(2, output).text(4, op)
}

/// A `ModelProto` around a `GraphProto`.
fn model(graph: Message) -> Vec<u8> {
    Message::default().int(1, 8).message(7, graph.text(2, "main")).message(8, Message::default().int(2, 17)).0
}

/// `y = (a + b) * (a + b)` with `a` of shape `[2, n]` and a scalar `b`.
fn squares() -> Vec<u8> {
    let graph = Message::default()
        .message(1, node("Add", &["a", "b"], "s"))
        .message(1, node("Mul", &["s", "s"], "y"))
        .message(11, value("a", OracleType::F32, &[Dim::Fixed(2), Dim::Free("n")]))
        .message(11, value("b", OracleType::F32, &[]))
        .message(12, value("y", OracleType::F32, &[Dim::Fixed(2), Dim::Free("n")]));
    model(graph)
}

/// `y = x`, for any type.
fn identity(dtype: OracleType) -> Vec<u8> {
    let graph = Message::default()
        .message(1, node("Identity", &["x"], "y"))
        .message(11, value("x", dtype, &[Dim::Free("n"), Dim::Fixed(2)]))
        .message(12, value("y", dtype, &[Dim::Free("n"), Dim::Fixed(2)]));
    model(graph)
}

/// `y = w[i]` with `w` of shape `[len]` in an external file.
fn external(file: &str, len: u64) -> Vec<u8> {
    let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
    let weight = Message::default()
        .int(1, len)
        .int(2, OracleType::F32.onnx() as u64)
        .text(8, "w")
        .message(13, entry("location", file))
        .message(13, entry("offset", "0"))
        .message(13, entry("length", &(len * 4).to_string()))
        .int(14, 1);
    let graph = Message::default()
        .message(1, node("Gather", &["w", "i"], "y"))
        .message(5, weight)
        .message(11, value("i", OracleType::I64, &[Dim::Free("n")]))
        .message(12, value("y", OracleType::F32, &[Dim::Free("n")]));
    model(graph)
}

fn floats(shape: &[usize], values: &[f32]) -> Array {
    Array {
        dtype: OracleType::F32,
        shape: shape.to_vec(),
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn open(oracle: &Oracle, bytes: &[u8], options: &SessionOptions) -> Result<Session, OracleError> {
    let folder = tempfile::tempdir().expect("temporary directory");
    oracle.session_from_bytes(bytes, folder.path(), options)
}

#[test]
fn numbers_and_ports() {
    let oracle = oracle();
    eprintln!("ONNX Runtime {} at {}", oracle.version(), oracle.library());
    for optimization in [Optimization::Disabled, Optimization::Basic, Optimization::Extended, Optimization::All] {
        let options = SessionOptions { optimization, intra_threads: 1, prepacking: optimization == Optimization::All };
        let mut session = open(&oracle, &squares(), &options).expect("a session");
        assert_eq!(session.inputs().len(), 2);
        let a = &session.inputs()[0];
        assert_eq!((a.name.as_str(), a.dtype), ("a", Some(OracleType::F32)));
        assert_eq!(a.shape, [Some(2), None]);
        assert!(session.inputs()[1].shape.is_empty());
        assert_eq!(session.outputs()[0].name, "y");
        let inputs = [("a", floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0])), ("b", floats(&[], &[0.5]))];
        let outputs = session.run(&inputs).expect("a run");
        let expected = floats(&[2, 2], &[2.25, 6.25, 12.25, 20.25]);
        assert_eq!(outputs, [("y".to_owned(), expected)]);
    }
}

#[test]
fn exposed_values_follow_the_outputs() {
    let oracle = oracle();
    let bytes = expose(&squares(), &["s", "y"]).expect("a model");
    let mut session = open(&oracle, &bytes, &SessionOptions::default()).expect("a session");
    let inputs = [("b".to_owned(), floats(&[], &[1.0])), ("a".to_owned(), floats(&[2, 1], &[1.0, 2.0]))];
    let y = ("y".to_owned(), floats(&[2, 1], &[4.0, 9.0]));
    let s = ("s".to_owned(), floats(&[2, 1], &[2.0, 3.0]));
    assert_eq!(session.run(&inputs).expect("a run"), [y.clone(), s.clone()]);
    let selected = session.run_selected(&inputs, &["s", "y", "s"]).expect("a run");
    assert_eq!(selected, [s.clone(), y, s]);
    let none: [&str; 0] = [];
    assert_eq!(session.run_selected(&inputs, &none).expect("a run"), []);
    assert!(matches!(session.run_selected(&inputs, &["t"]), Err(OracleError::UnknownOutput { .. })));
}

#[test]
fn exposing_what_is_not_there_is_an_error() {
    let oracle = oracle();
    let bytes = expose(&squares(), &["nothing"]).expect("a model");
    let refused = open(&oracle, &bytes, &SessionOptions::default()).expect_err("no such value");
    assert!(matches!(refused, OracleError::Model { .. }), "{refused}");
    assert!(refused.to_string().contains("nothing"), "{refused}");
}

#[test]
fn every_type_goes_in_and_out() {
    let oracle = oracle();
    for &dtype in OracleType::ALL {
        let mut session = open(&oracle, &identity(dtype), &SessionOptions::default()).expect("a session");
        assert_eq!(session.inputs()[0].dtype, Some(dtype));
        assert_eq!(OracleType::from_onnx(dtype.onnx()), Some(dtype));
        for rows in [0, 1, 3] {
            let len = rows * 2 * dtype.size();
            let bytes = match dtype {
                OracleType::Bool => (0..len).map(|i| (i % 2) as u8).collect(),
                _ => (0..len).map(|i| (i * 37 + 11) as u8).collect(),
            };
            let array = Array { dtype, shape: vec![rows, 2], bytes };
            let outputs = session.run(&[("x", array.clone())]).expect("a run");
            assert_eq!(outputs, [("y".to_owned(), array)], "{dtype}");
        }
    }
}

#[test]
fn wrong_inputs_are_errors() {
    let oracle = oracle();
    let mut session = open(&oracle, &squares(), &SessionOptions::default()).expect("a session");
    let a = || ("a", floats(&[2, 1], &[1.0, 2.0]));
    let b = || ("b", floats(&[], &[1.0]));
    let mut error = |inputs: &[(&str, Array)]| session.run(inputs).expect_err("wrong inputs");

    let e = error(&[a(), b(), ("c", floats(&[], &[1.0]))]);
    assert!(matches!(e, OracleError::UnknownInput { .. }), "{e}");
    let e = error(&[a()]);
    assert!(matches!(e, OracleError::MissingInput { .. }), "{e}");
    let e = error(&[a(), b(), a()]);
    assert!(matches!(e, OracleError::DuplicateInput { .. }), "{e}");
    let e = error(&[("a", floats(&[3, 1], &[1.0, 2.0, 3.0])), b()]);
    assert!(matches!(e, OracleError::InputShape { .. }), "{e}");
    assert!(e.to_string().contains("[2, ?]"), "{e}");
    let e = error(&[("a", floats(&[2], &[1.0, 2.0])), b()]);
    assert!(matches!(e, OracleError::InputShape { .. }), "{e}");
    let e = error(&[("a", floats(&[2, 2], &[1.0, 2.0])), b()]);
    assert!(matches!(e, OracleError::Length { .. }), "{e}");
    let e = error(&[("a", floats(&[2, usize::MAX], &[1.0, 2.0])), b()]);
    assert!(matches!(e, OracleError::Length { .. }), "{e}");
    let mut wrong = a();
    wrong.1.dtype = OracleType::I32;
    let e = error(&[wrong, b()]);
    assert!(matches!(e, OracleError::InputType { .. }), "{e}");
    // A scalar's shape may stand for an unknown number of dimensions, so ONNX Runtime decides.
    let outputs = session.run(&[a(), ("b", floats(&[1, 3], &[0.0, 1.0, 2.0]))]);
    assert!(matches!(outputs, Ok(_) | Err(OracleError::Run(_))), "{outputs:?}");
    assert!(session.run(&[a(), b()]).is_ok(), "the session survives");
}

#[test]
fn wrong_models_are_errors() {
    let oracle = oracle();
    let options = SessionOptions::default();
    for bytes in [&b""[..], b"not a model", &squares()[..40]] {
        let e = open(&oracle, bytes, &options).expect_err("no model");
        assert!(matches!(e, OracleError::Model { .. }), "{e}");
    }
    let e = oracle.session_from_file(Path::new("/no/such/model.onnx"), &options).expect_err("no file");
    assert!(e.to_string().contains("/no/such/model.onnx"), "{e}");
    let e = oracle.session_from_bytes(&squares(), Path::new("/no/such/folder"), &options).expect_err("no folder");
    assert!(matches!(e, OracleError::ExternalFolder { .. }), "{e}");
}

#[test]
fn external_data_is_read_from_the_folder() {
    let oracle = oracle();
    let folder = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(folder.path().join("sub")).expect("directory");
    let weights: Vec<u8> = (0..1000u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    fs::write(folder.path().join("sub/weights.bin"), &weights).expect("weights");
    let bytes = external("sub/weights.bin", 1000);
    let indices = Array {
        dtype: OracleType::I64,
        shape: vec![2],
        bytes: [7i64, 999].iter().flat_map(|i| i.to_le_bytes()).collect(),
    };
    let options = SessionOptions::default();
    let expected = [("y".to_owned(), floats(&[2], &[7.0, 999.0]))];

    let mut session = oracle.session_from_bytes(&bytes, folder.path(), &options).expect("a session");
    assert_eq!(session.run(&[("i", indices.clone())]).expect("a run"), expected);

    let file = folder.path().join("model.onnx");
    fs::write(&file, &bytes).expect("the model");
    let mut session = oracle.session_from_file(&file, &options).expect("a session");
    assert_eq!(session.run(&[("i", indices)]).expect("a run"), expected);

    let e = oracle.session_from_bytes(&bytes, &folder.path().join("sub"), &options).expect_err("the data is not there");
    assert!(matches!(e, OracleError::Model { .. }), "{e}");
}

#[test]
fn failures_while_running_are_errors() {
    let oracle = oracle();
    let folder = tempfile::tempdir().expect("temporary directory");
    fs::write(folder.path().join("w.bin"), [0; 16]).expect("weights");
    let mut session = oracle
        .session_from_bytes(&external("w.bin", 4), folder.path(), &SessionOptions::fastest(1))
        .expect("a session");
    let index = |i: i64| Array { dtype: OracleType::I64, shape: vec![1], bytes: i.to_le_bytes().to_vec() };
    let e = session.run(&[("i", index(4))]).expect_err("out of range");
    assert!(matches!(e, OracleError::Run(_)), "{e}");
    assert!(session.run(&[("i", index(3))]).is_ok());
}

/// Opens the models that `SARA_ORACLE_MODELS` lists, with everything that their nodes compute as outputs. Dimensions
/// that may vary are taken as 2.
#[test]
fn all_values_of_models() {
    let oracle = oracle();
    let Some(models) = std::env::var_os("SARA_ORACLE_MODELS") else {
        eprintln!("skipped: SARA_ORACLE_MODELS lists no models");
        return;
    };
    for file in std::env::split_paths(&models) {
        let bytes = fs::read(&file).expect("a model file");
        let names = node_outputs(&bytes).expect("a model");
        let exposed = expose(&bytes, &names).expect("a model");
        let folder = file.parent().expect("a folder");
        let mut session = oracle.session_from_bytes(&exposed, folder, &SessionOptions::default()).expect("a session");
        let inputs: Vec<(String, Array)> = session
            .inputs()
            .iter()
            .map(|port| {
                let mut array = Array {
                    dtype: port.dtype.expect("a dense tensor"),
                    shape: port.shape.iter().map(|d| d.unwrap_or(2)).collect(),
                    bytes: Vec::new(),
                };
                array.bytes = vec![0; array.expected_len().expect("a small array")];
                (port.name.clone(), array)
            })
            .collect();
        let outputs = session.run(&inputs).expect("a run");
        assert_eq!(outputs.len(), session.outputs().len());
        for name in &names {
            assert!(outputs.iter().any(|(output, _)| output == name), "{name}");
        }
        eprintln!(
            "{}: {} values of {} nodes' outputs, {} bytes",
            file.display(),
            outputs.len(),
            names.len(),
            outputs.iter().map(|(_, array)| array.bytes.len()).sum::<usize>()
        );
    }
}
