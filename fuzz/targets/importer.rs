//! Any bytes as a model: imported, brought into canonical form and placed, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sara::compiler::compile::{compile_forward, unobserved};
use sara::compiler::import::{Binding, Model};
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let binding = Binding { open: Some(2), ..Binding::default() };
    if let Ok(model) = Model::from_bytes(Path::new("/nowhere/model.onnx"), bytes.to_vec().into()) {
        let _ = compile_forward(&model, &binding, &mut unobserved());
    }
});
