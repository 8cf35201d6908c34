//! A look at the outline of a file before it is decoded: how many messages it holds and how deep they lie in one another.

use crate::limits::{MESSAGE_DEPTH, MESSAGES};
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint, skip_field};

/// The messages of the format that hold others, and the fields in which they do.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Leaf,
}

impl Kind {
    /// The kind of the message in field `tag`.
    fn of(self, tag: u32) -> Kind {
        match (self, tag) {
            (Kind::Model, 7) | (Kind::Attribute, 6 | 11) => Kind::Graph,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
            _ => Kind::Leaf,
        }
    }
}

/// Why the file should not be decoded.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    let mut open = vec![(Kind::Model, file)];
    let mut count = 0;
    while let Some((kind, mut rest)) = open.pop() {
        if !rest.has_remaining() {
            continue;
        }
        let malformed = |e: prost::DecodeError| {
            format!("is not an ONNX model or is truncated ({e}); export it again or fetch it anew")
        };
        let (tag, wire) = decode_key(&mut rest).map_err(malformed)?;
        if wire != WireType::LengthDelimited {
            skip_field(wire, tag, &mut rest, Default::default()).map_err(malformed)?;
            open.push((kind, rest));
            continue;
        }
        let len = decode_varint(&mut rest).map_err(malformed)?;
        let Some((field, after)) = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len)) else {
            return Err(
                "is not an ONNX model or is truncated (a field ends beyond the file); export it again or fetch it anew"
                    .into(),
            );
        };
        open.push((kind, after));
        count += 1;
        if count > MESSAGES {
            return Err(format!(
                "holds more than {MESSAGES} messages, the most that are read; no model of this kind does"
            ));
        }
        let inner = kind.of(tag);
        if !matches!(inner, Kind::Leaf) {
            open.push((inner, field));
        }
        if open.len() > MESSAGE_DEPTH {
            return Err(format!("nests subgraphs deeper than {MESSAGE_DEPTH} messages, the most that are read"));
        }
    }
    Ok(())
}
