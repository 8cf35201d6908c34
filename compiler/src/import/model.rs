//! An ONNX model as it lies on disk: the decoded messages, and where each tensor's bytes are.

use super::proto::{AttributeProto, GraphProto, ModelProto, TensorProto, data_type};
use super::scan;
use crate::error::{Error, Result};
use crate::limits::FILE_BYTES;
use bytes::Bytes;
use prost::Message;
use sara_kernels::DType;
use sara_runtime::map::Map;
use sara_runtime::plan::{ModelFile, Stored};
use sara_runtime::source::{Source, relative};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Mutex;

/// An open model.
pub struct Model {
    /// Where its files lie.
    pub source: Source,
    /// Its messages.
    pub proto: ModelProto,
    bytes: Bytes,
    external: Mutex<HashMap<String, Bytes>>,
}

/// Where a tensor's bytes lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// Empty for the `.onnx` file itself, else the external file relative to its folder.
    pub file: String,
    /// Offset of the first byte.
    pub offset: u64,
}

/// An input of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Element type in which it is computed with, if it is one we know.
    pub dtype: Option<DType>,
    /// Its extents; nothing for one that may vary.
    pub shape: Vec<Option<usize>>,
}

impl Model {
    /// Opens and decodes a model. Weights are not read.
    pub fn open(path: &Path) -> Result<Model> {
        Model::open_source(Source::new(path))
    }

    /// The same, with external data that may lie elsewhere.
    pub fn open_source(source: Source) -> Result<Model> {
        let bytes = Bytes::from_owner(Map::open(&source, "")?);
        Model::decode(source, bytes)
    }

    /// Decodes a model from its bytes. `path` is where it would lie: external data is read from beside it, and messages name it.
    pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Model> {
        Model::decode(Source::new(path), bytes)
    }

    fn decode(source: Source, bytes: Bytes) -> Result<Model> {
        let path = &source.model;
        if bytes.len() as u64 > FILE_BYTES {
            let reason = format!("has {} bytes, and an ONNX file has {FILE_BYTES} at most", bytes.len());
            return Err(Error::file(path, reason));
        }
        scan::check(&bytes).map_err(|reason| Error::file(path, reason))?;
        let proto = ModelProto::decode(bytes.clone()).map_err(|e| {
            Error::file(path, format!("is not an ONNX model or is truncated ({e}); export it again or fetch it anew"))
        })?;
        let graph = proto.graph.as_ref().filter(|g| !g.node.is_empty() && !proto.opset_import.is_empty());
        if graph.is_none() {
            return Err(Error::file(path, "is not an ONNX model: it holds no graph; give the path of an .onnx file"));
        }
        Ok(Model { source, proto, bytes, external: Mutex::default() })
    }

    /// Path of the `.onnx` file.
    pub fn path(&self) -> &Path {
        &self.source.model
    }

    /// The graph.
    pub fn graph(&self) -> &GraphProto {
        static EMPTY: std::sync::OnceLock<GraphProto> = std::sync::OnceLock::new();
        self.proto.graph.as_ref().unwrap_or_else(|| EMPTY.get_or_init(GraphProto::default))
    }

    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        super::function::default_opset(&self.proto.opset_import).unwrap_or(1)
    }

    /// Names of the dimensions that its inputs leave open, in the order of their first use.
    pub fn dims(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.graph().input.iter().flat_map(super::dims).filter_map(|d| d.dim_param.as_ref()) {
            if !name.is_empty() && !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Inputs that a run must be given, in the model's order.
    pub fn inputs(&self) -> Vec<Input> {
        let graph = self.graph();
        let given = |name: &str| graph.initializer.iter().any(|i| i.name == name);
        let input = |i: &super::proto::ValueInfoProto| Input {
            name: i.name.clone(),
            dtype: i.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| super::dtype(t.elem_type)),
            shape: super::dims(i).iter().map(|d| d.dim_value.and_then(|v| usize::try_from(v).ok())).collect(),
        };
        graph.input.iter().filter(|i| !given(&i.name)).map(input).collect()
    }

    /// Identity of the `.onnx` file, for plans and adapters.
    pub fn identity(&self) -> Result<ModelFile> {
        let path = std::path::absolute(self.path()).map_err(|e| Error::io(self.path(), e))?;
        let root = self.source.root.as_ref().map(std::path::absolute).transpose();
        let root = root.map_err(|e| Error::io(self.path(), e))?;
        let sha256 = Sha256::digest(&self.bytes).iter().map(|b| format!("{b:02x}")).collect();
        Ok(ModelFile { path, root, bytes: self.bytes.len() as u64, sha256 })
    }

    /// Element type of a tensor in the file, if it is one we know.
    pub fn stored(tensor: &TensorProto) -> Option<Stored> {
        Some(match tensor.data_type {
            data_type::FLOAT => Stored::Plain(DType::F32),
            data_type::DOUBLE => Stored::Plain(DType::F64),
            data_type::INT64 => Stored::Plain(DType::I64),
            data_type::INT32 => Stored::Plain(DType::I32),
            data_type::INT16 => Stored::Plain(DType::I16),
            data_type::INT8 => Stored::Plain(DType::I8),
            data_type::UINT64 => Stored::Plain(DType::U64),
            data_type::UINT32 => Stored::Plain(DType::U32),
            data_type::UINT16 => Stored::Plain(DType::U16),
            data_type::UINT8 => Stored::Plain(DType::U8),
            data_type::BOOL => Stored::Plain(DType::Bool),
            data_type::FLOAT16 => Stored::F16,
            data_type::BFLOAT16 => Stored::Bf16,
            _ => return None,
        })
    }

    fn known_type(&self, tensor: &TensorProto) -> Result<Stored> {
        let reason = || format!("has element type {}, which is not supported", data_type::name(tensor.data_type));
        Self::stored(tensor).ok_or_else(|| self.bad_tensor(tensor, reason()))
    }

    /// Dimensions of a tensor.
    pub fn shape(&self, tensor: &TensorProto) -> Result<Vec<usize>> {
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let dims = dims.filter(|d| d.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).is_some_and(|n| n < 1 << 40));
        dims.ok_or_else(|| self.bad_tensor(tensor, format!("has the impossible shape {:?}", tensor.dims)))
    }

    /// Where the bytes of a tensor lie, if they lie anywhere as they are: data in typed varint fields does not.
    pub fn locate(&self, tensor: &TensorProto) -> Result<Option<Location>> {
        let stored = self.known_type(tensor)?;
        let wanted = self.shape(tensor)?.iter().product::<usize>() * stored.size();
        let fields = [&tensor.raw_data, &tensor.float_data, &tensor.double_data].map(|f| !f.is_empty());
        let numbers = [!tensor.int32_data.is_empty(), !tensor.int64_data.is_empty(), !tensor.uint64_data.is_empty()];
        let external = !tensor.external_data.is_empty() || tensor.data_location == 1;
        if fields.into_iter().chain(numbers).chain([external]).filter(|f| *f).count() > 1 {
            return Err(self.bad_tensor(tensor, "has its data in several places; export the model again".into()));
        }
        if tensor.data_location == 1 {
            return self.locate_external(tensor, wanted).map(Some);
        }
        let field = match tensor.data_type {
            _ if !tensor.raw_data.is_empty() => &tensor.raw_data,
            data_type::FLOAT => &tensor.float_data,
            data_type::DOUBLE => &tensor.double_data,
            _ => return Ok(None),
        };
        if field.len() != wanted {
            return Err(self.bad_tensor(tensor, format!("needs {wanted} bytes and has {}", field.len())));
        }
        Ok(Some(Location { file: String::new(), offset: self.offset_of(field) }))
    }

    /// Offset in the `.onnx` file of bytes that were decoded from it.
    fn offset_of(&self, field: &Bytes) -> u64 {
        // An empty field may point anywhere.
        if field.is_empty() { 0 } else { (field.as_ptr() as usize - self.bytes.as_ptr() as usize) as u64 }
    }

    fn locate_external(&self, tensor: &TensorProto, wanted: usize) -> Result<Location> {
        for (i, entry) in tensor.external_data.iter().enumerate() {
            let known = ["location", "offset", "length", "checksum"].contains(&entry.key.as_str());
            if !known || tensor.external_data[..i].iter().any(|e| e.key == entry.key) {
                let what = if known { "twice" } else { "which is not known" };
                let reason = format!("has external data with the key `{}`, {what}", entry.key.escape_debug());
                return Err(self.bad_tensor(tensor, reason));
            }
        }
        let get = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match get(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                self.bad_tensor(tensor, format!("has external data with {key} `{text}`, which is not a number"))
            }),
        };
        let file = self.external_file(tensor)?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(wanted as u64));
        if length != wanted as u64 {
            return Err(self.bad_tensor(tensor, format!("needs {wanted} bytes and its external data has {length}")));
        }
        let there = self.file(&file);
        let there =
            there.map_err(|e| self.bad_tensor(tensor, format!("has external data that cannot be used: {e}")))?;
        let there = there.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > there) {
            let reason = format!(
                "is too short: tensor `{}` needs bytes {offset}..{} and the file has {}; fetch it anew",
                tensor.name,
                offset.saturating_add(length),
                there
            );
            return Err(Error::file(self.source.path(&file), reason));
        }
        Ok(Location { file, offset })
    }

    /// The file that holds the external data of a tensor, relative to the model's folder, which it must not leave.
    fn external_file(&self, tensor: &TensorProto) -> Result<String> {
        let entry = tensor.external_data.iter().find(|e| e.key == "location");
        let file = entry.map_or("", |e| e.value.as_str());
        relative(file).ok_or_else(|| {
            let reason =
                format!("names external data at `{}`, which is outside the model's folder", file.escape_debug());
            self.bad_tensor(tensor, reason)
        })
    }

    /// External files that any tensor of the model names, also those that are no weights: relative to its folder, each once.
    pub fn external_files(&self) -> Result<BTreeSet<String>> {
        let mut files = BTreeSet::new();
        let mut graphs: Vec<&GraphProto> = self.proto.graph.iter().collect();
        let mut attributes: Vec<&AttributeProto> = Vec::new();
        for function in &self.proto.functions {
            attributes.extend(&function.attribute_proto);
            attributes.extend(function.node.iter().flat_map(|n| &n.attribute));
        }
        let mut tensors: Vec<&TensorProto> = Vec::new();
        loop {
            while let Some(a) = attributes.pop() {
                tensors.extend(a.t.iter().chain(&a.tensors));
                graphs.extend(a.g.iter().chain(&a.graphs));
            }
            let Some(graph) = graphs.pop() else { break };
            tensors.extend(&graph.initializer);
            attributes.extend(graph.node.iter().flat_map(|n| &n.attribute));
        }
        for tensor in tensors.into_iter().filter(|t| t.data_location == 1) {
            files.insert(self.external_file(tensor)?);
        }
        Ok(files)
    }

    /// The bytes of external data, or of the `.onnx` file if `file` is empty.
    fn file(&self, file: &str) -> Result<Bytes> {
        if file.is_empty() {
            return Ok(self.bytes.clone());
        }
        let mut maps = self.external.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bytes) = maps.get(file) {
            return Ok(bytes.clone());
        }
        let bytes = Bytes::from_owner(Map::open(&self.source, file)?);
        maps.insert(file.to_owned(), bytes.clone());
        Ok(bytes)
    }

    /// The bytes at a location.
    pub fn bytes_at(&self, location: &Location, len: usize) -> Result<Bytes> {
        let source = self.file(&location.file)?;
        let start = location.offset as usize;
        match start.checked_add(len).filter(|end| *end <= source.len()) {
            Some(end) => Ok(source.slice(start..end)),
            None => Err(Error::file(self.source.path(&location.file), format!("ends before byte {start}+{len}"))),
        }
    }

    /// All elements of a tensor in little-endian bytes of the type they are computed in.
    pub fn elements(&self, tensor: &TensorProto) -> Result<(DType, Vec<u8>)> {
        let shape = self.shape(tensor)?;
        let len: usize = shape.iter().product();
        let stored = self.known_type(tensor)?;
        let dtype = stored.loaded();
        if let Some(location) = self.locate(tensor)? {
            return Ok((dtype, widen(&self.bytes_at(&location, len * stored.size())?, stored)));
        }
        let bytes: Vec<u8> = match tensor.data_type {
            data_type::INT64 => bytemuck::cast_slice(&tensor.int64_data).to_vec(),
            data_type::INT32 => bytemuck::cast_slice(&tensor.int32_data).to_vec(),
            data_type::UINT64 => bytemuck::cast_slice(&tensor.uint64_data).to_vec(),
            data_type::UINT32 => tensor.uint64_data.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect(),
            data_type::INT16 | data_type::UINT16 => {
                tensor.int32_data.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect()
            }
            data_type::INT8 | data_type::UINT8 | data_type::BOOL => {
                tensor.int32_data.iter().map(|v| *v as u8).collect()
            }
            data_type::FLOAT16 | data_type::BFLOAT16 => {
                let halves: Vec<u8> = tensor.int32_data.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect();
                widen(&halves, stored)
            }
            _ => Vec::new(),
        };
        if bytes.len() != len * dtype.size() {
            return Err(self.bad_tensor(tensor, format!("needs {len} elements and has {}", bytes.len() / dtype.size())));
        }
        Ok((dtype, bytes))
    }

    fn bad_tensor(&self, tensor: &TensorProto, reason: String) -> Error {
        Error::file(self.path(), format!("tensor `{}` {reason}", tensor.name))
    }
}

/// Stored elements in the type they are computed in.
pub fn widen(bytes: &[u8], stored: Stored) -> Vec<u8> {
    match stored {
        Stored::Plain(_) => bytes.to_vec(),
        Stored::F16 | Stored::Bf16 => bytemuck::cast_slice(stored.values(bytes, &mut Vec::new())).to_vec(),
    }
}
