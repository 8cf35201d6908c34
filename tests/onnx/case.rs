//! The cases as ONNX stores them.

#![allow(dead_code, reason = "each test uses a part")]

use onnx_protobuf::{Message, ModelProto, TensorProto};
use sara_runtime::oracle::{Array, OracleType};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// One case: a model, its inputs and what it must compute.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) model: ModelProto,
    /// Name and value of each input; no value where it is a sequence or of a type that arrays cannot have.
    pub(crate) inputs: Vec<(String, Option<TensorProto>)>,
    pub(crate) outputs: Vec<Option<Array>>,
    /// Allowed difference relative to the expected value.
    pub(crate) rtol: f64,
    /// Allowed difference besides.
    pub(crate) atol: f64,
}

/// All cases of an archive.
pub(crate) fn read(path: &Path) -> Vec<Case> {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut archive = zip::ZipArchive::new(file).expect("the cases are an archive");
    let mut files = HashMap::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).expect("the archive is whole");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("the archive is whole");
        files.insert(entry.name().expect("names are text").into_owned(), bytes);
    }
    let tolerances = String::from_utf8(files["tolerances.txt"].clone()).expect("tolerances are text");
    tolerances.lines().map(|line| case(line, &files)).collect()
}

fn case(line: &str, files: &HashMap<String, Vec<u8>>) -> Case {
    let [name, rtol, atol] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("bad line `{line}`") };
    let model = ModelProto::parse_from_bytes(&files[&format!("{name}/model.onnx")]).expect("a model");
    let tensor = |kind: &str, i: usize| {
        let bytes = files.get(&format!("{name}/{kind}_{i}.pb")).filter(|b| !b.is_empty())?;
        TensorProto::parse_from_bytes(bytes).ok()
    };
    let inputs = model.graph.input.iter().enumerate().map(|(i, v)| (v.name.clone(), tensor("input", i))).collect();
    let outputs = (0..model.graph.output.len()).map(|i| tensor("output", i).and_then(|t| array(&t))).collect();
    let number = |text: &str| text.parse().expect("a tolerance is a number");
    Case { name: name.to_owned(), inputs, outputs, rtol: number(rtol), atol: number(atol), model }
}

/// A tensor whose elements lie in `raw_data`.
pub(crate) fn array(tensor: &TensorProto) -> Option<Array> {
    let dtype = OracleType::from_onnx(tensor.data_type)?;
    let shape: Vec<usize> = tensor.dims.iter().map(|d| *d as usize).collect();
    let len = shape.iter().product::<usize>() * dtype.size();
    (tensor.raw_data.len() == len).then(|| Array { dtype, shape, bytes: tensor.raw_data.clone() })
}
