//! Event files that TensorBoard reads: TFRecords of `Event` messages (tensorflow/core/util/event.proto).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::Error;

/// Writes an event file.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Begins a new file in a folder, called after the time in seconds since 1970. A run that goes on has several, which TensorBoard
    /// joins.
    pub fn create(folder: &Path, seconds: f64) -> Result<Events, Error> {
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
        let path = folder.join(format!("events.out.tfevents.{}.{}.sara", seconds as u64, std::process::id()));
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::file(&path, e))?;
        let mut events = Events { path, file };
        let mut event = header(seconds, None);
        bytes(&mut event, 3, b"brain.Event:2");
        events.record(&event)?;
        Ok(events)
    }

    /// Adds numbers of a step.
    pub fn scalars(&mut self, seconds: f64, step: u64, values: &[(&str, f64)]) -> Result<(), Error> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, tag.as_bytes());
            key(&mut entry, 2, 5);
            entry.extend((*value as f32).to_le_bytes());
            bytes(&mut summary, 1, &entry);
        }
        self.summary(seconds, step, &summary)
    }

    /// Adds a picture of a step: the bytes of a PNG file, and its height and width.
    pub fn picture(&mut self, seconds: f64, step: u64, tag: &str, png: &[u8], size: [usize; 2]) -> Result<(), Error> {
        let mut image = Vec::new();
        for (field, value) in [(1, size[0] as u64), (2, size[1] as u64), (3, 3)] {
            key(&mut image, field, 0);
            varint(&mut image, value);
        }
        bytes(&mut image, 4, png);
        let mut entry = Vec::new();
        bytes(&mut entry, 1, tag.as_bytes());
        bytes(&mut entry, 4, &image);
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &entry);
        self.summary(seconds, step, &summary)
    }

    fn summary(&mut self, seconds: f64, step: u64, summary: &[u8]) -> Result<(), Error> {
        let mut event = header(seconds, Some(step));
        bytes(&mut event, 5, summary);
        self.record(&event)
    }

    /// One record: length, its check, the data, theirs.
    fn record(&mut self, data: &[u8]) -> Result<(), Error> {
        let length = (data.len() as u64).to_le_bytes();
        let all =
            [&length[..], &masked(crc32c(&length)).to_le_bytes(), data, &masked(crc32c(data)).to_le_bytes()].concat();
        self.file.write_all(&all).map_err(|e| Error::file(&self.path, e))
    }
}

/// Time and step of an event.
fn header(seconds: f64, step: Option<u64>) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, 1);
    event.extend(seconds.to_le_bytes());
    if let Some(step) = step {
        key(&mut event, 2, 0);
        varint(&mut event, step);
    }
    event
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, field: u64, data: &[u8]) {
    key(out, field, 2);
    varint(out, data.len() as u64);
    out.extend(data);
}

/// CRC-32C (Castagnoli), as TFRecords use it.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & 0u32.wrapping_sub(crc & 1)))
    })
}

/// TFRecord's mask, because a check of a check would be weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of the records of a file whose checks hold.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(12);
            let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
            assert_eq!(masked(crc32c(&head[..8])).to_le_bytes(), head[8..]);
            let (data, rest) = rest.split_at(length);
            assert_eq!(masked(crc32c(data)).to_le_bytes(), rest[..4]);
            found.push(data.to_vec());
            bytes = &rest[4..];
        }
        found
    }

    #[test]
    fn checks_are_those_of_castagnoli() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn events_are_records_of_messages() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), 1.5e9).unwrap();
        events.scalars(1.5e9, 300, &[("loss", 0.5)]).unwrap();
        events.picture(1.5e9, 300, "sample", b"PNG", [2, 3]).unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let found = records(&std::fs::read(path).unwrap());
        assert_eq!(found.len(), 3);
        assert!(found[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        let scalar = [&b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15"[..], &0.5f32.to_le_bytes()].concat();
        assert_eq!(found[1][9..], scalar);
        assert!(found[2].ends_with(b"\x0a\x06sample\x22\x0b\x08\x02\x10\x03\x18\x03\x22\x03PNG"));
    }
}
