//! A CUDA driver and an NVRTC in front of the shim, as libraries that a process loads in the place of NVIDIA's.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

const CUDA: &str = include_str!("../driver/cuda.cpp");
const NVRTC: &str = include_str!("../driver/nvrtc.cpp");

/// Compiles both, unless that was done before, and returns their folder: that of `libcuda.so`, for `LD_LIBRARY_PATH`, and a toolkit whose
/// `lib64` has NVRTC, for `CUDA_HOME`. `driver/cuda.cpp` says which variables describe its devices.
pub fn driver() -> Result<PathBuf, String> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let out = Path::new(env!("OUT_DIR"));
    let mut hasher = DefaultHasher::new();
    [CUDA, NVRTC].hash(&mut hasher);
    let place = out.join("generated").join(format!("driver-{:016x}", hasher.finish()));
    if !place.exists() {
        let made = fs::create_dir_all(out.join("generated")).and_then(|()| tempfile::tempdir_in(out));
        let made = made.map_err(|e| e.to_string())?;
        build(out, made.path()).map_err(|e| e.to_string())?;
        // Another process may have been first.
        if let Err(e) = fs::rename(made.path(), &place)
            && !place.exists()
        {
            return Err(format!("`{}` cannot be made: {e}", place.display()));
        }
    }
    Ok(place)
}

fn build(out: &Path, place: &Path) -> io::Result<()> {
    let (lib, runtime) = (place.join("lib64"), out.join("libshim_runtime.a"));
    fs::create_dir(&lib)?;
    // Each library has the shim to itself, with the entry points that it announces.
    let map = lib.join("own.map");
    fs::write(&map, "{ global: cu*; nvrtc*; shim_*; local: *; };\n")?;
    let flags: Vec<String> = env!("SHIM_FLAGS").split('\t').map(quoted).collect();
    let script = format!(
        "exec {} {} \"$1\" -x none -shared {} -Wl,--version-script=\"$(dirname \"$0\")/own.map\" -o \"$2\"\n",
        quoted(env!("SHIM_COMPILER")),
        flags.join(" "),
        quoted(&runtime.to_string_lossy()),
    );
    fs::write(lib.join("compile.sh"), script)?;
    let kernels =
        ["-Wl,--whole-archive".into(), out.join("libshim_kernels.a"), "-Wl,--no-whole-archive".into(), runtime];
    for (text, library, more) in
        [(CUDA, place.join("libcuda.so"), &kernels[..]), (NVRTC, lib.join("libnvrtc.so.12"), &[])]
    {
        let source = place.join("source.cpp");
        fs::write(&source, text)?;
        let output = Command::new(env!("SHIM_COMPILER"))
            .args(["-std=c++17", "-O2", "-fPIC", "-shared"])
            .arg(format!("-Wl,--version-script={}", map.display()))
            .arg(&source)
            .args(more)
            .arg("-o")
            .arg(library)
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(())
}

/// As a word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
