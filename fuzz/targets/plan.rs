//! Any bytes as the content of a plan with a right hash: refused by its verifier, or sound enough to be printed and saved.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sara::runtime::plan::Plan;
use sha2::{Digest, Sha256};
use std::sync::OnceLock;
use tempfile::TempDir;

/// What comes before the hash of a plan.
const HEAD: &[u8] = b"sara-plan\x0c\0\0\0";

fuzz_target!(|bytes: &[u8]| {
    static PLACE: OnceLock<TempDir> = OnceLock::new();
    let path = PLACE.get_or_init(|| tempfile::tempdir().unwrap()).path().join("fuzz.plan");
    std::fs::write(&path, [HEAD, &Sha256::digest(bytes), bytes].concat()).unwrap();
    match Plan::load(&path) {
        Ok(plan) => {
            let _ = plan.to_string();
            plan.save(&path).unwrap();
            let saved = std::fs::read(&path).unwrap();
            // Bytes are compared, because a scalar may be NaN.
            Plan::load(&path).unwrap().save(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), saved);
        }
        Err(error) => assert!(!error.to_string().contains("version"), "the plan's version has changed: {error}"),
    }
});
