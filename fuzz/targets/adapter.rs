//! Any bytes as an adapter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sara::runtime::adapter::Adapter;
use std::sync::OnceLock;
use tempfile::TempDir;

fuzz_target!(|bytes: &[u8]| {
    static PLACE: OnceLock<TempDir> = OnceLock::new();
    let path = PLACE.get_or_init(|| tempfile::tempdir().unwrap()).path().join("adapter.safetensors");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(adapter) = Adapter::read(&path) {
        let _ = Adapter::combine(&[(adapter.clone(), 1.0), (adapter, -1.0)]);
    }
});
