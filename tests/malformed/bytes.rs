//! Files that are no messages, or messages that are no model.

use crate::Case;
use crate::common::bytes;
use crate::graphs::{refusal, sum};

fn raw(name: impl Into<String>, content: Vec<u8>) -> Case {
    Case::new(name, move |folder| {
        let path = folder.join("m.onnx");
        std::fs::write(&path, &content).unwrap();
        refusal(&path)
    })
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// A length-delimited field.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let key = varint(u64::from(tag) << 3 | 2);
    [key, varint(content.len() as u64), content.to_vec()].concat()
}

/// Graphs in attributes of nodes of graphs.
fn nested(depth: usize) -> Vec<u8> {
    let mut graph = Vec::new();
    for _ in 0..depth {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    [field(8, &[16, 17]), field(7, &graph)].concat()
}

pub(crate) fn cases() -> Vec<Case> {
    let whole = bytes(&sum());
    let mut cases = vec![
        raw("bytes, none", vec![]),
        raw("bytes, zeros", vec![0; 64]),
        raw("bytes, ones", vec![0xff; 64]),
        raw("bytes, a text", b"this is no model, but a text of some length".to_vec()),
        raw("bytes, a zip archive", b"PK\x03\x04\x14\0\0\0\x08\0 and so on".to_vec()),
        raw("bytes, a pickle", b"\x80\x04\x95\x0c\0\0\0\0\0\0\0\x8c\x05torch".to_vec()),
        raw("bytes, a safetensors file", [&8u64.to_le_bytes()[..], b"{}      "].concat()),
        raw("bytes, a pointer to large files", b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec()),
        raw("bytes, a page of an error", b"<!doctype html><html><body>404</body></html>".to_vec()),
        raw("bytes, a field longer than the file", vec![0x3a, 0xff, 0xff, 0xff, 0x7f]),
        raw("bytes, a field of the greatest length", [vec![0x3a], varint(u64::MAX)].concat()),
        raw("bytes, a number without an end", vec![0x08; 1].into_iter().chain([0x80; 12]).collect()),
        raw("bytes, a group that never ends", vec![0x0b; 40]),
        raw("bytes, the end of a group", vec![0x0c, 0x0c]),
        raw("bytes, groups in groups", vec![0x0b; 100_000]),
        raw("bytes, an unknown wire type", vec![0x0e, 0, 0]),
        raw("bytes, field number zero", vec![0x02, 0]),
        raw("bytes, a graph that is a number", [field(8, &[16, 17]), vec![0x38, 1]].concat()),
        raw("bytes, a graph that is a text", [field(8, &[16, 17]), field(7, b"hello graph")].concat()),
        raw(
            "bytes, a name that is not UTF-8",
            [field(8, &[16, 17]), field(7, &field(1, &field(4, &[0xff, 0xfe])))].concat(),
        ),
        raw("bytes, graphs ten deep", nested(10)),
        raw("bytes, graphs thirty deep", nested(30)),
        raw("bytes, graphs a thousand deep", nested(1000)),
        raw("bytes, five million empty nodes", [field(8, &[16, 17]), field(7, &[0x0a, 0].repeat(5_000_000))].concat()),
        raw("bytes, something after the model", [whole.clone(), vec![0xff; 3]].concat()),
    ];
    for part in 1..16 {
        cases.push(raw(format!("bytes, {part}/16 of a model"), whole[..whole.len() * part / 16].to_vec()));
    }
    cases
}
