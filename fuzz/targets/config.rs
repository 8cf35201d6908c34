//! Any text as a configuration file of `sara train`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = sara::command::check_config(text);
});
