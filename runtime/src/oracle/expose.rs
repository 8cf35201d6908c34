//! Inner values of a model as outputs, by appending to the bytes of the model.
//!
//! Encoded protobuf messages merge when they are concatenated: scalar fields of the later one win, embedded messages
//! merge and repeated fields grow. A `ModelProto` that holds nothing but a `GraphProto` with more outputs can therefore be
//! appended to a model that is not decoded, whatever fields it has. The appended outputs have names only; ONNX Runtime
//! infers their types.

use std::collections::HashSet;

use super::OracleError;

/// `ModelProto.graph`.
const MODEL_GRAPH: u64 = 7;
/// `GraphProto.node`.
const GRAPH_NODE: u64 = 1;
/// `GraphProto.output`.
const GRAPH_OUTPUT: u64 = 12;
/// `NodeProto.output`.
const NODE_OUTPUT: u64 = 2;
/// `ValueInfoProto.name`.
const VALUE_NAME: u64 = 1;

/// Returns the bytes of `model` with the values of these names appended to the outputs of its graph.
///
/// Names that are outputs already, and repetitions, are left out, so every name is an output exactly once and those of
/// the model keep their places. Whether a value of that name exists is for ONNX Runtime to say.
pub fn expose<S: AsRef<str>>(model: &[u8], names: &[S]) -> Result<Vec<u8>, OracleError> {
    let mut seen: HashSet<String> = graph_outputs(model)?.into_iter().collect();
    let mut graph = Vec::new();
    for name in names.iter().map(AsRef::as_ref) {
        if !name.is_empty() && seen.insert(name.to_owned()) {
            let mut value = Vec::with_capacity(name.len() + 8);
            put_field(&mut value, VALUE_NAME, name.as_bytes());
            put_field(&mut graph, GRAPH_OUTPUT, &value);
        }
    }
    let mut bytes = Vec::with_capacity(model.len() + graph.len() + 16);
    bytes.extend_from_slice(model);
    if !graph.is_empty() {
        put_field(&mut bytes, MODEL_GRAPH, &graph);
    }
    Ok(bytes)
}

/// The names of the outputs of the main graph, in order.
pub fn graph_outputs(model: &[u8]) -> Result<Vec<String>, OracleError> {
    let mut names = Vec::new();
    for graph in graphs(model)? {
        for value in fields(graph, GRAPH_OUTPUT) {
            for name in fields(value?, VALUE_NAME) {
                names.push(text(name?)?);
            }
        }
    }
    Ok(names)
}

/// The names of everything that the nodes of the main graph compute, in order, without the omitted optional outputs.
pub fn node_outputs(model: &[u8]) -> Result<Vec<String>, OracleError> {
    let mut names = Vec::new();
    for graph in graphs(model)? {
        for node in fields(graph, GRAPH_NODE) {
            for name in fields(node?, NODE_OUTPUT) {
                let name = text(name?)?;
                if !name.is_empty() {
                    names.push(name);
                }
            }
        }
    }
    Ok(names)
}

/// The pieces of the graph of a model: more than one if encoded messages have been concatenated.
fn graphs(model: &[u8]) -> Result<Vec<&[u8]>, OracleError> {
    let graphs = fields(model, MODEL_GRAPH).collect::<Result<Vec<_>, _>>()?;
    if graphs.is_empty() {
        return Err(OracleError::NotAModel("it has no graph".to_owned()));
    }
    Ok(graphs)
}

fn text(bytes: &[u8]) -> Result<String, OracleError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(OracleError::NotAModel("a name is not UTF-8".to_owned())),
    }
}

/// The length-delimited fields of one number in an encoded message. Others are stepped over by their lengths.
fn fields(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], OracleError>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            match next_field(&mut rest) {
                Some((found, Some(bytes))) if found == number => return Some(Ok(bytes)),
                Some(_) => {}
                None => {
                    let at = message.len() - rest.len();
                    rest = &[];
                    return Some(Err(OracleError::NotAModel(format!(
                        "the encoding breaks off or is wrong at byte {at} of a message of {}",
                        message.len()
                    ))));
                }
            }
        }
        None
    })
}

/// Takes one field off the front: its number, and its bytes if it is length-delimited. `None` if it is malformed.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let key = varint(rest)?;
    let number = key >> 3;
    if number == 0 {
        return None;
    }
    let bytes = match key & 7 {
        0 => {
            varint(rest)?;
            None
        }
        1 => {
            take(rest, 8)?;
            None
        }
        2 => {
            let len = usize::try_from(varint(rest)?).ok()?;
            Some(take(rest, len)?)
        }
        5 => {
            take(rest, 4)?;
            None
        }
        // Groups do not occur in ONNX.
        _ => return None,
    };
    Some((number, bytes))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (bytes, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(bytes)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(node: &[&str], output: &[&str]) -> Vec<u8> {
        let mut graph = Vec::new();
        for name in node {
            let mut bytes = Vec::new();
            put_field(&mut bytes, 1, b"x");
            put_field(&mut bytes, NODE_OUTPUT, name.as_bytes());
            put_field(&mut graph, GRAPH_NODE, &bytes);
        }
        for name in output {
            let mut bytes = Vec::new();
            put_field(&mut bytes, VALUE_NAME, name.as_bytes());
            put_field(&mut graph, GRAPH_OUTPUT, &bytes);
        }
        let mut model = vec![8, 9];
        put_field(&mut model, MODEL_GRAPH, &graph);
        model
    }

    #[test]
    fn names_are_appended_once() {
        let model = model(&["a", "b", "", "c"], &["c"]);
        assert_eq!(node_outputs(&model).expect("a model"), ["a", "b", "c"]);
        let exposed = expose(&model, &["b", "c", "b", "a", ""]).expect("a model");
        assert!(exposed.starts_with(&model));
        assert_eq!(graph_outputs(&exposed).expect("a model"), ["c", "b", "a"]);
        assert_eq!(expose(&exposed, &["a"]).expect("a model"), exposed);
    }

    #[test]
    fn broken_bytes_are_errors() {
        let model = model(&["a"], &["a"]);
        for len in 0..model.len() {
            assert!(expose(&model[..len], &["a"]).is_err(), "{len}");
        }
        for byte in 0..=255u8 {
            assert!(expose(&[byte; 40], &["a"]).is_err(), "{byte}");
        }
        assert!(expose(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], &["a"]).is_err());
    }
}
