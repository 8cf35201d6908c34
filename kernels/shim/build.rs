//! Compiles every `kernel.cu`, and the planted bugs of the tests, with g++ against the shim.

use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let kernels = here.join("../src");
    let mut sources: Vec<PathBuf> = entries(&kernels).into_iter().map(|f| f.join("kernel.cu")).collect();
    sources.retain(|f| f.exists());
    sources.push(here.join("tests/planted.cu"));
    sources.sort();
    println!("cargo::rerun-if-changed={}", kernels.display());
    for folder in ["src", "tests"] {
        println!("cargo::rerun-if-changed={}", here.join(folder).display());
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).warnings(false).include(here.join("src")).include(&kernels);
    // A fused product and sum would hide what the GPU rounds.
    build.flag("-ffp-contract=off").flag("-fno-strict-aliasing");
    let compiler = build.try_get_compiler().unwrap_or_else(|e| missing(&e.to_string()));
    if !compiler.is_like_gnu() {
        missing(&format!("{} is another compiler", compiler.path().display()));
    }
    let mut runtime = build.clone();
    runtime.file(here.join("src/shim.cpp")).compile("shim_runtime");
    // Each access becomes a call, which shim.cpp answers. Neither stacks nor constants are laid out anew.
    let mut flags = vec!["-x".to_owned(), "c++".to_owned(), "-fsanitize=kernel-address".to_owned()];
    for (name, value) in [("instrumentation-with-call-threshold", 0), ("stack", 0), ("globals", 0)] {
        flags.extend(["--param".to_owned(), format!("asan-{name}={value}")]);
    }
    // What is generated while tests run is compiled in the same way.
    let all = compiler.args().iter().map(|a| a.to_string_lossy().into_owned()).chain(flags.clone());
    println!("cargo::rustc-env=SHIM_COMPILER={}", compiler.path().display());
    println!("cargo::rustc-env=SHIM_FLAGS={}", all.collect::<Vec<_>>().join("\t"));
    let _ = std::fs::remove_dir_all(PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("generated"));
    for flag in &flags {
        build.flag(flag);
    }
    // Entry points announce themselves when the library is loaded, so all of it must be.
    build.link_lib_modifier("+whole-archive");
    build.files(&sources).compile("shim_kernels");
    println!("cargo::rustc-link-lib=static=shim_runtime");
    println!("cargo::rustc-link-lib=stdc++");
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

fn missing(reason: &str) -> ! {
    println!(
        "cargo::error=the tests run the CUDA kernels through g++, which is needed (Debian: apt-get install g++): {reason}"
    );
    std::process::exit(1)
}
