//! The weights of a model as they lie in its files: where, under which names, and their bytes.

use super::node;
use super::{Location, Model, widen};
use crate::error::Result;
use bytes::Bytes;
use sara_runtime::plan::{Stored, Weight};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Every float tensor of a model that lies in a file as it is: initialisers and Constant nodes, without building a graph.
pub fn weights(model: &Model) -> Result<Vec<Weight>> {
    let paths = weight_paths(model);
    let graph = model.graph();
    let constants = graph.node.iter().filter(|n| n.op_type == "Constant").filter_map(|n| {
        let tensor = n.attribute.iter().find(|a| a.name == "value")?.t.as_ref()?;
        Some((n.output.first()?.as_str(), tensor))
    });
    let mut weights = Vec::new();
    for (name, tensor) in graph.initializer.iter().map(|t| (t.name.as_str(), t)).chain(constants) {
        let shape = model.shape(tensor)?;
        if !node::is_float(tensor) || shape.iter().product::<usize>() < 2 {
            continue;
        }
        if let (Some(stored), Some(location)) = (Model::stored(tensor), model.locate(tensor)?) {
            weights.push(new_weight(&paths, name, &shape, stored, location));
        }
    }
    Ok(weights)
}

/// See [`Model::external_files`].
pub fn external_files(model: &Model) -> Result<BTreeSet<String>> {
    model.external_files()
}

pub(super) fn new_weight(
    paths: &HashMap<String, String>,
    name: &str,
    shape: &[usize],
    stored: Stored,
    location: Location,
) -> Weight {
    Weight {
        name: name.to_owned(),
        path: paths.get(name).cloned().unwrap_or_else(|| name.to_owned()),
        shape: shape.iter().map(|d| *d as u64).collect(),
        stored,
        file: location.file,
        offset: location.offset,
    }
}

/// All elements of a weight, in the type they are computed in.
pub fn read_weight(model: &Model, weight: &Weight) -> Result<Vec<u8>> {
    Ok(widen(&stored_bytes(model, weight)?, weight.stored))
}

/// Bytes of a weight as they lie in its file.
pub fn stored_bytes(model: &Model, weight: &Weight) -> Result<Bytes> {
    let location = Location { file: weight.file.clone(), offset: weight.offset };
    model.bytes_at(&location, weight.stored_bytes() as usize)
}

/// Names of weights that outlive an export: the first node that computes with each, and the operand it is there.
pub(super) fn weight_paths(model: &Model) -> HashMap<String, String> {
    const VIEWS: [&str; 5] = ["Identity", "Transpose", "Reshape", "Cast", "Constant"];
    let graph = model.graph();
    let mut source: HashMap<&str, &str> =
        graph.initializer.iter().map(|t| (t.name.as_str(), t.name.as_str())).collect();
    let mut paths = HashMap::new();
    let mut taken = HashSet::new();
    for node in &graph.node {
        let Some(output) = node.output.first() else { continue };
        if node.op_type == "Constant" {
            source.insert(output, output);
        }
        if VIEWS.contains(&node.op_type.as_str()) {
            if let Some(origin) = node.input.first().and_then(|i| source.get(i.as_str()).copied()) {
                source.insert(output, origin);
            }
            continue;
        }
        for (slot, input) in node.input.iter().enumerate() {
            if let Some(origin) = source.get(input.as_str()).filter(|o| !paths.contains_key(**o)) {
                let base = if node.name.is_empty() { output } else { &node.name };
                let mut path = format!("{base}:{slot}");
                while !taken.insert(path.clone()) {
                    path.push('\'');
                }
                paths.insert((*origin).to_owned(), path);
            }
        }
    }
    paths
}
