//! The model for other readers, which may check less than we do: written anew from what was decoded and checked, with external
//! data named by where it really lies.

use super::Model;
use super::proto::{AttributeProto, GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use crate::error::{Error, Result};
use prost::Message;
use std::path::PathBuf;

/// The bytes of a model, and the folder to which the locations of its external data are relative.
pub fn checked(model: &Model) -> Result<(Vec<u8>, PathBuf)> {
    let (proto, folder) = checked_proto(model)?;
    Ok((proto.encode_to_vec(), folder))
}

/// The same before it is encoded.
pub fn checked_proto(model: &Model) -> Result<(ModelProto, PathBuf)> {
    let real = |path: PathBuf| path.canonicalize().map_err(|e| Error::io(path, e));
    let own = real(model.source.folder().to_owned())?;
    let files: Result<Vec<PathBuf>> = model.external_files()?.iter().map(|f| real(model.source.path(f))).collect();
    let files = files?;
    let first = files.first().and_then(|f| f.parent()).map(ToOwned::to_owned);
    let inside = |folder: &PathBuf| files.iter().all(|f| f.starts_with(folder));
    let folder = [Some(own), first].into_iter().flatten().find(inside).ok_or_else(|| {
        let reason = "has external data in several folders, which ONNX Runtime does not read; copy it beside the model";
        Error::file(model.path(), reason)
    })?;
    let mut proto = model.proto.clone();
    let mut graphs: Vec<&mut GraphProto> = proto.graph.iter_mut().collect();
    let mut attributes: Vec<&mut AttributeProto> = Vec::new();
    for function in &mut proto.functions {
        attributes.extend(&mut function.attribute_proto);
        attributes.extend(function.node.iter_mut().flat_map(|n| &mut n.attribute));
    }
    loop {
        while let Some(attribute) = attributes.pop() {
            for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                check(model, tensor, &folder)?;
            }
            graphs.extend(attribute.g.iter_mut().chain(&mut attribute.graphs));
        }
        let Some(graph) = graphs.pop() else { break };
        for tensor in &mut graph.initializer {
            check(model, tensor, &folder)?;
        }
        attributes.extend(graph.node.iter_mut().flat_map(|n| &mut n.attribute));
    }
    Ok((proto, folder))
}

/// Checks a tensor, and names its external data anew.
fn check(model: &Model, tensor: &mut TensorProto, folder: &std::path::Path) -> Result<()> {
    if Model::stored(tensor).is_none() {
        return Ok(());
    }
    let Some(location) = model.locate(tensor)?.filter(|l| !l.file.is_empty()) else { return Ok(()) };
    let path = model.source.path(&location.file);
    let path = path.canonicalize().map_err(|e| Error::io(path, e))?;
    let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
    let length = tensor.dims.iter().product::<i64>() * Model::stored(tensor).map_or(0, |s| s.size() as i64);
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
    tensor.external_data = vec![
        entry("location", name),
        entry("offset", location.offset.to_string()),
        entry("length", length.to_string()),
    ];
    Ok(())
}
